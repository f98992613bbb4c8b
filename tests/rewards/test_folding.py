"""ESMFold rewards on tiny random networks: the network's own answers, memory, and every metric."""

import dataclasses
import math
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from networks import two_layers

from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.rewards import esmfold, folding, geometry

transformers = pytest.importorskip("transformers")

METRICS = folding.Metric.__args__
TO_TARGET = ("rmsd", "crmsd", "drmsd", "tm", "lddt")
SEQUENCES = ["MKTAYIAKQRQISFVKSHFS", "ACDEFGHIKLMNPQRSTVWY", "WWVLIFMWVLIFMGGSGGSG"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a random ESMFold of 80,000 weights, in the format of the published one."""
    trunk = {
        "num_blocks": 2,
        "sequence_state_dim": 32,
        "pairwise_state_dim": 16,
        "sequence_head_width": 16,
        "pairwise_head_width": 8,
        "max_recycles": 4,
        "chunk_size": None,
        "structure_module": {
            "sequence_dim": 16,
            "pairwise_dim": 8,
            "ipa_dim": 4,
            "resnet_dim": 8,
            "num_heads_ipa": 2,
            "num_qk_points": 2,
            "num_v_points": 2,
            "num_blocks": 2,
            "num_resnet_blocks": 1,
        },
    }
    config = transformers.EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        **two_layers(16, 32),
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_folding_model=True,
        esmfold_config={"fp16_esm": False, "lddt_head_hid_dim": 8, "trunk": trunk},
    )
    network = transformers.EsmForProteinFolding(config)
    rng = torch.Generator().manual_seed(5)
    for weight in network.parameters():
        # fresh weights give equal confidences, whatever the sequence
        if weight.ndim > 1:
            weight.data.copy_(torch.randn(weight.shape, generator=rng) / weight.shape[-1] ** 0.5)
    path = tmp_path_factory.mktemp("esmfold")
    network.save_pretrained(path)
    return path


def load(tiny, **options):
    options = {"device": torch.device("cpu"), **options}
    return esmfold.Folder(tiny, **options)


@pytest.fixture(scope="module")
def folder(tiny):
    return load(tiny)


def designs(sequences):
    return Designs.of(sequences, PROTEIN)


def structure(fold, sequence, *, chains="", design=None, coords=None):
    """The predicted structure as a target: its own residues 1.. of chain A, or of `chains`."""
    n = len(sequence)
    names = chains or "A" * n
    numbers = [names[:i].count(names[i]) + 1 for i in range(n)]
    return Structure(
        name="self",
        sequence=sequence,
        coords=(fold.coords[:, :4] if coords is None else coords).float(),
        numbering=Numbering(tuple(names), tuple(map(str, numbers))),
        design=torch.tensor([True] * n if design is None else design),
        residue_index=torch.arange(n),
    )


def reward(folder, metric, target=None, **options):
    target = None if target is None else folding.Target.of(target)
    return folding.ESMFold(metric=metric, folder=folder, target=target, **options)


# predicting structures ----------------------------------------------------------------------------


def test_a_prediction_is_the_networks_own(tiny):
    from transformers.models.esm.openfold_utils import compute_tm

    folder = load(tiny)
    network = transformers.EsmForProteinFolding.from_pretrained(tiny).eval()
    for sequence in SEQUENCES:
        (fold,) = folder([sequence])
        out = network.infer(sequence)
        exists = out.atom14_atom_exists[0] > 0
        torch.testing.assert_close(fold.coords[exists], out.positions[-1][0][exists])
        assert bool(fold.coords[~exists].isnan().all())
        atoms = out.atom37_atom_exists[0] > 0
        assert float(fold.plddt.nanmean()) == pytest.approx(float(out.plddt[0][atoms].mean()))
        assert fold.ptm == pytest.approx(float(compute_tm(out.ptm_logits)), abs=1e-6)
        names = [len(geometry.ATOMS[a]) for a in sequence]
        assert exists.sum(-1).tolist() == names


def test_predictions_differ(folder):
    folds = folder(SEQUENCES)
    assert len({round(f.ptm, 5) for f in folds}) == 3
    assert len({round(float(f.plddt.nanmean()), 5) for f in folds}) == 3
    assert float(geometry.rmsd(folds[0].coords[:, 1], folds[1].coords[:, 1])) > 0.1


def test_batch_order_and_length_change_nothing(tiny):
    mixed = [*SEQUENCES, "MKTAYIAK", "GGGGG", "MKTAYIAW"]
    together = load(tiny)(mixed)
    for sequence, fold in zip(mixed, together, strict=True):
        (alone,) = load(tiny)([sequence])
        assert fold.coords.shape == (len(sequence), 14, 3)
        torch.testing.assert_close(fold.coords, alone.coords, equal_nan=True, rtol=0, atol=1e-4)
        torch.testing.assert_close(fold.plddt, alone.plddt, equal_nan=True, rtol=0, atol=1e-5)
        assert fold.ptm == pytest.approx(alone.ptm, abs=1e-5)


def test_a_sequence_is_folded_once(tiny):
    folder = load(tiny)
    first = folder([SEQUENCES[0], SEQUENCES[1], SEQUENCES[0]])
    assert folder.predictions == 2
    assert first[0] is first[2]
    again = folder(SEQUENCES)
    assert folder.predictions == 3
    assert again[1] is first[1]


def test_the_memory_is_bounded_and_forgets_the_oldest(tiny):
    folder = load(tiny, remembered=2)
    folder(["MKTAY", "MKTAW"])
    folder(["MKTAY"])
    folder(["MKTAF"])
    assert folder.predictions == 3
    folder(["MKTAY", "MKTAF"])
    assert folder.predictions == 3
    folder(["MKTAW"])
    assert folder.predictions == 4
    assert len(folder(["AAAAA", "CCCCC", "DDDDD"])) == 3


def test_fewer_recycles_are_another_prediction(tiny):
    (once,), (four,) = load(tiny, recycles=0)(SEQUENCES[:1]), load(tiny)(SEQUENCES[:1])
    assert float(geometry.rmsd(once.coords[:, 1], four.coords[:, 1])) > 1e-3


class Small:
    """A device that cannot hold more than some residues, or some rows of attention."""

    def __init__(self, folder, residues, rows=10**9, error=torch.OutOfMemoryError):
        self.network, self.sizes, self.rows = folder._network, [], rows
        self.residues, self.error = residues, error
        folder.__dict__["_network"] = self
        self.trunk = self.network.trunk

    def __call__(self, tokens, *args, **kwargs):
        self.sizes.append(len(tokens))
        chunk = self.trunk.chunk_size or 10**6
        if tokens.numel() > self.residues or chunk > self.rows:
            raise self.error("CUDA out of memory. not enough memory: you tried to allocate 1 GB")
        return self.network(tokens, *args, **kwargs)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_batches_are_halved_until_they_fit(tiny, error):
    rng = np.random.default_rng(0)
    many = ["".join(rng.choice(list(PROTEIN.letters), 10)) for _ in range(9)]
    folder = load(tiny)
    small = Small(folder, residues=25, error=error)
    folds = folder(many)
    assert small.sizes == [9, 4, 2, 2, 2, 2, 1]
    for fold, whole in zip(folds, load(tiny)(many), strict=True):
        torch.testing.assert_close(fold.coords, whole.coords, equal_nan=True, rtol=0, atol=1e-4)
    # what was learned about the memory is kept
    folder(["ACDEFGHIKL", "ACDEFGHIKM", "ACDEFGHIKN"])
    assert small.sizes[7:] == [2, 1]
    assert folder.predictions == 12


def test_attention_is_cut_when_one_sequence_is_too_much(tiny):
    folder = load(tiny)
    small = Small(folder, residues=1000, rows=16)
    (fold,) = folder(SEQUENCES[:1])
    assert small.sizes == [1, 1, 1]
    assert small.trunk.chunk_size == 16
    (whole,) = load(tiny)(SEQUENCES[:1])
    torch.testing.assert_close(fold.coords, whole.coords, equal_nan=True, rtol=0, atol=1e-4)


def test_what_does_not_fit_at_all_is_a_sentence(tiny):
    folder = load(tiny)
    Small(folder, residues=5)
    with pytest.raises(MemoryError, match="20 residues into the memory of cpu, even one"):
        folder(SEQUENCES[:1])


def test_weights_that_do_not_fit_are_a_sentence(tiny, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.EsmForProteinFolding, "to", full)
    with pytest.raises(MemoryError, match="weights of ESMFold do not fit into the memory of cpu"):
        load(tiny)(SEQUENCES)


def test_other_errors_are_not_taken_for_memory(tiny):
    folder = load(tiny)

    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    folder.__dict__["_network"] = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        folder(SEQUENCES[:1])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_and_keeps_coordinates_whole(tiny, precision):
    folder = load(tiny, precision=precision)
    for half, full in zip(folder(SEQUENCES), load(tiny)(SEQUENCES), strict=True):
        assert half.coords.dtype == torch.float32
        assert not torch.equal(half.coords.nan_to_num(), full.coords.nan_to_num())
        near = geometry.lddt(half.coords[:, 1], full.coords[:, 1])
        assert float(near) > 0.8
        assert float(half.plddt.nanmean()) == pytest.approx(float(full.plddt.nanmean()), abs=0.02)
        assert half.ptm == pytest.approx(full.ptm, abs=0.02)
    dtypes = {n.split(".")[0]: p.dtype for n, p in folder._network.named_parameters()}
    assert dtypes["esm"] == torch.float16
    assert dtypes["trunk"] == torch.float32


def test_overflow_is_a_sentence(tiny):
    folder = load(tiny)
    network = folder._network

    def overflowing(*args, **kwargs):
        out = network(*args, **kwargs)
        out["positions"] = out.positions * math.inf
        return out

    folder.__dict__["_network"] = overflowing
    with pytest.raises(ArithmeticError, match="precision: float32"):
        folder(SEQUENCES[:1])


def test_chains_are_joined_by_a_linker_that_is_dropped(tiny):
    folder, seen = load(tiny), {}
    network = folder._network

    def watched(tokens, mask, **kwargs):
        out = network(tokens, mask, **kwargs)
        seen.update(tokens=tokens, numbers=kwargs["position_ids"], out=out)
        return out

    folder.__dict__["_network"] = watched
    (fold,) = folder(["MKTAY:ACDE:GG"])
    keep = [*range(5), *range(30, 34), *range(59, 61)]
    order = "ARNDCQEGHILKMFPSTWYV"
    assert "".join(order[t] for t in seen["tokens"][0]) == "MKTAY" + "G" * 25 + "ACDE" + "G" * 27
    # as fair-esm numbers them: 512 more for every chain, the linker on from the chain before
    numbers = torch.arange(61) + 512 * (torch.arange(61) >= 30) + 512 * (torch.arange(61) >= 59)
    assert torch.equal(seen["numbers"][0], numbers)
    whole = seen["out"].positions[-1][0, keep]
    exists = fold.coords.isfinite().all(-1)
    torch.testing.assert_close(fold.coords[exists], whole[exists])
    assert fold.coords.shape == (11, 14, 3)
    (one,) = folder(["MKTAYACDEGG"])
    assert float(geometry.rmsd(one.coords[:, 1], fold.coords[:, 1])) > 1e-3


def test_weights_must_be_whole(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    state = load_file(tiny / "model.safetensors")
    contact = [k for k in state if "contact_head" in k]
    assert contact
    # the published file lacks the contact head, which folding does not read
    save_file(
        {k: v for k, v in state.items() if k not in contact},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    (fold,) = load(tmp_path)(SEQUENCES[:1])
    torch.testing.assert_close(fold.coords, load(tiny)(SEQUENCES[:1])[0].coords, equal_nan=True)
    lost = "trunk.blocks.1.mlp_seq.mlp.1.weight"
    assert lost in state
    save_file(
        {k: v for k, v in state.items() if k != lost},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ValueError, match=rf"1 of its weights .*'{re.escape(lost)}'"):
        load(tmp_path)(SEQUENCES[:1])


def test_the_published_pickle_format_is_read_too(tiny, tmp_path):
    from safetensors.torch import load_file

    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    torch.save(load_file(tiny / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (fold,) = load(tmp_path)(SEQUENCES[:1])
    torch.testing.assert_close(fold.coords, load(tiny)(SEQUENCES[:1])[0].coords, equal_nan=True)


def test_letters_that_cannot_be_folded(folder):
    with pytest.raises(ValueError, match="position 3 of 'MKX' is 'X'"):
        folder(["MKX"])
    with pytest.raises(ValueError, match="without residues"):
        folder(["MK:"])


# metrics ------------------------------------------------------------------------------------------


def test_a_design_that_folds_into_its_target_scores_best(folder):
    sequence = SEQUENCES[0]
    (fold,) = folder([sequence])
    target = structure(fold, sequence)
    best = {"rmsd": 0.0, "crmsd": 0.0, "drmsd": 0.0, "tm": 1.0, "lddt": 1.0, "ss-match": 1.0}
    for metric, value in best.items():
        scorer = reward(folder, metric, target)
        scores = scorer(designs(SEQUENCES))[0]
        assert float(scores[0]) == pytest.approx(value, abs=1e-4), metric
        if metric != "ss-match":
            assert float(scores[1:].max()) < value - 0.01, metric


@pytest.mark.parametrize("metric", TO_TARGET)
def test_the_further_the_target_the_lower_the_score(folder, metric):
    (fold,) = folder(SEQUENCES[:1])
    noise = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(1))
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))
    turned = fold.coords[:, :4] @ (q * torch.linalg.det(q)) + 30.0
    scores = [
        float(
            reward(folder, metric, structure(fold, SEQUENCES[0], coords=turned + s * noise))(
                designs(SEQUENCES[:1])
            )
        )
        for s in (0.0, 0.5, 2.0, 8.0)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1] + 0.3


def test_metrics_to_a_target_are_the_geometry_of_the_right_atoms(folder):
    fold, other = folder(SEQUENCES[:2])
    target = structure(other, SEQUENCES[1])
    ca, wanted = fold.coords[:, 1], other.coords[:, 1]
    bb, bb_wanted = fold.coords[:, :3].reshape(-1, 3), other.coords[:, :3].reshape(-1, 3)
    values = {
        "rmsd": -geometry.rmsd(ca, wanted),
        "tm": geometry.tm_score(ca, wanted),
        "lddt": geometry.lddt(ca, wanted),
        "crmsd": -geometry.rmsd(bb, bb_wanted),
        "drmsd": -geometry.drmsd(bb, bb_wanted),
    }
    for metric, value in values.items():
        score = reward(folder, metric, target)(designs(SEQUENCES[:1]))
        assert float(score) == pytest.approx(float(value), abs=1e-9), metric


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_metrics_without_a_target_are_the_tutorials(tiny, folder, sequence):
    """The definitions of the tutorial's code, computed by biotite from the network's PDB file."""
    struc = pytest.importorskip("biotite.structure")
    pdb = pytest.importorskip("biotite.structure.io.pdb")
    network = transformers.EsmForProteinFolding.from_pretrained(tiny).eval()
    atoms = pdb.PDBFile.read(StringIO(network.infer_pdb(sequence))).get_structure()[0]
    area = struc.sasa(atoms)
    greasy = np.isin(atoms.res_name, ["VAL", "ILE", "LEU", "PHE", "MET", "TRP"])
    backbone = atoms[np.isin(atoms.atom_name, ["N", "CA", "C"])]
    radius = np.linalg.norm(backbone.coord - backbone.coord.mean(0), axis=-1)
    centers = np.stack(
        [backbone.coord[backbone.res_id <= 5].mean(0)]
        + [
            backbone.coord[(backbone.res_id > i) & (backbone.res_id <= i + 5)].mean(0)
            for i in (5, 10, 15)
        ]
    )
    ring = np.linalg.norm(centers - np.roll(centers, 1, 0), axis=-1)
    every = np.linalg.norm(centers[:, None] - centers[None], axis=-1)[np.triu_indices(4, 1)]
    sse = "".join({"a": "H", "b": "E", "c": "C"}[s] for s in struc.annotate_sse(atoms))
    wanted = "HHHHHEEEEECCCCC.HECH"
    hits = [a == b for a, b in zip(sse, wanted, strict=True) if b != "."]

    def value(metric, **options):
        return float(reward(folder, metric, **options)(designs([sequence])))

    # files have three decimals, and an atom may be exposed in one point of a thousand
    assert value("surface") == pytest.approx((area > 0).mean(), abs=0.01)
    assert value("hydrophobic") == pytest.approx(-(area[greasy] > 0).mean(), abs=0.02)
    assert value("globularity") == pytest.approx(-radius.std(), abs=2e-3)
    assert value("symmetry", protomers=4) == pytest.approx(-ring.std(), abs=2e-3)
    assert value("symmetry", protomers=4, neighbors="all") == pytest.approx(-every.std(), abs=2e-3)
    assert value("ss-match", secondary=wanted) == pytest.approx(np.mean(hits))


def test_confidence_is_the_folds(folder):
    folds = folder(SEQUENCES)
    plddt = reward(folder, "plddt")(designs(SEQUENCES))[0]
    ptm = reward(folder, "ptm")(designs(SEQUENCES))[0]
    for i, fold in enumerate(folds):
        assert float(plddt[i]) == pytest.approx(float(fold.plddt.nanmean()), abs=1e-6)
        assert float(ptm[i]) == fold.ptm
        assert 0 < float(plddt[i]) < 1
        assert 0 < float(ptm[i]) < 1
    part = reward(folder, "plddt", residues="1-5")(designs(SEQUENCES[:1]))
    assert float(part) == pytest.approx(float(folds[0].plddt[:5].nanmean()), abs=1e-6)


def test_nothing_hydrophobic_is_nothing_exposed(folder):
    pytest.importorskip("biotite")
    assert float(reward(folder, "hydrophobic")(designs(["GSGSGSGSGS"]))) == 0.0


def test_residues_restrict_the_comparison(folder):
    sequence = SEQUENCES[0]
    (fold,) = folder([sequence])
    coords = fold.coords[:, :4].clone()
    coords[10:] += 5 * torch.randn(10, 4, 3, generator=torch.Generator().manual_seed(3))
    target = structure(fold, sequence, coords=coords)
    for metric in TO_TARGET:
        best = 1.0 if metric in ("tm", "lddt") else 0.0
        half = reward(folder, metric, target, residues="A1-10")(designs([sequence]))
        whole = reward(folder, metric, target)(designs([sequence]))
        assert float(half) == pytest.approx(best, abs=1e-4)
        assert float(whole) < best - 0.05
    with pytest.raises(ValueError, match="esmfold-tm: residues"):
        reward(folder, "tm", target, residues="A19-23")


def test_context_chains_are_not_folded(tiny):
    folder = load(tiny)
    sequence, chains = SEQUENCES[0], "A" * 8 + "C" * 6 + "B" * 6
    (fold,) = folder([f"{sequence[:8]}:{sequence[14:]}"])
    coords = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(4))
    coords[[*range(8), *range(14, 20)]] = fold.coords[:, :4]
    target = structure(
        None, sequence, chains=chains, design=[c != "C" for c in chains], coords=coords
    )
    scorer = reward(folder, "crmsd", target)
    assert scorer.target.chains == (8, 6)
    other = sequence[:8] + "WWWWWW" + sequence[14:]
    scores = scorer(designs([sequence, other]))
    assert folder.predictions == 1
    torch.testing.assert_close(scores, torch.zeros(1, 2).double(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="residues"):
        reward(folder, "rmsd", target, residues="C1-6")


def test_unknown_residues_are_neither_folded_nor_compared(folder):
    sequence = SEQUENCES[0]
    (fold,) = folder([sequence])
    gap = structure(
        fold,
        "MKTAYXXIAKQRQISFVKSHFS",
        coords=torch.cat([fold.coords[:5, :4], torch.zeros(2, 4, 3), fold.coords[5:, :4]]),
    )
    target = folding.Target.of(gap)
    assert target.length == 20
    assert target.chains == (20,)
    assert 5 in np.cumsum(target.pieces)
    assert target.numbering.name(6) == "A8"
    score = reward(folder, "rmsd", gap)(designs([sequence]))
    assert float(score) == pytest.approx(0.0, abs=1e-4)
    with pytest.raises(ValueError, match="20 residues to design, got a design of 8"):
        reward(folder, "rmsd", gap)(designs(["MKTAYIAK"]))


def test_protomers_are_the_chains_of_the_target(folder):
    sequence = SEQUENCES[1][:15]
    (fold,) = folder([f"{sequence[:5]}:{sequence[5:10]}:{sequence[10:]}"])
    target = structure(fold, sequence, chains="AAAAABBBBBCCCCC")
    score = reward(folder, "symmetry", target)(designs([sequence]))
    centers = fold.coords[:, :3].reshape(3, 15, 3).mean(1)
    assert float(score) == pytest.approx(-float(geometry.asymmetry(centers)), abs=1e-5)


def test_missing_atoms_of_the_target_are_refused_before_folding(tiny):
    folder = load(tiny)
    (fold,) = folder(SEQUENCES[:1])
    coords = fold.coords[:, :4].clone()
    coords[:, [0, 2, 3]] = torch.nan
    only_ca = dataclasses.replace(structure(fold, SEQUENCES[0], coords=coords), require=("CA",))
    assert float(reward(folder, "tm", only_ca)(designs(SEQUENCES[:1]))) == pytest.approx(
        1, abs=1e-4
    )
    with pytest.raises(ValueError, match="lacks backbone atoms of residue A1"):
        reward(folder, "crmsd", only_ca)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "plddtt"}, "give one of plddt, ptm"),
        ({"metric": "rmsd"}, "give structure"),
        ({"metric": "tm"}, "give structure"),
        ({"metric": "ss-match"}, "wanted secondary structure"),
        ({"metric": "symmetry"}, "give protomers"),
        ({"metric": "plddt", "secondary": "HHH"}, "for metric ss-match only"),
        ({"metric": "plddt", "protomers": 3}, "for metric symmetry only"),
        ({"metric": "ptm", "residues": "1-3"}, "leave residues out"),
        ({"metric": "symmetry", "protomers": 4, "neighbors": "each"}, "ring, all"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_folding(folder, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        folding.ESMFold(folder=folder, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "ss-match", "secondary": "HHHH"}, "4 letters for 20 folded residues"),
        ({"metric": "ss-match", "secondary": "h" * 20}, "write H (helix)"),
        ({"metric": "ss-match", "secondary": "." * 20}, "wants nothing"),
        ({"metric": "symmetry", "protomers": 2}, "at least 3"),
        ({"metric": "symmetry", "protomers": 6}, "6 equal protomers"),
        ({"metric": "surface", "residues": "1-40"}, "outside positions 1-20"),
    ],
)
def test_settings_that_do_not_fit_the_design_are_sentences(folder, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        reward(folder, **options)(designs(SEQUENCES[:1]))


def test_designs_that_are_no_finished_proteins(folder):
    scorer = reward(folder, "plddt")
    with pytest.raises(TypeError, match="continuous"):
        scorer(Designs(torch.zeros(1, 2, 3)))
    with pytest.raises(ValueError, match="protein model"):
        scorer(Designs.of(["ACGT"], DNA))
    with pytest.raises(ValueError, match="position 2 of 'M_T' is '_'"):
        scorer(designs(["M_T"]))


def test_islands_of_different_length_and_unchanged_inputs(folder):
    x = PROTEIN.encode(SEQUENCES[:2]).reshape(2, 1, 20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 12:] = False
    before = x.clone()
    scores = reward(folder, "plddt")(Designs(x, PROTEIN, mask))
    assert scores.shape == (2, 1)
    assert scores.dtype == torch.float64
    assert torch.equal(x, before)
    alone = reward(folder, "plddt")(designs([SEQUENCES[1][:12]]))
    assert float(scores[1, 0]) == pytest.approx(float(alone), abs=1e-6)


# by name ------------------------------------------------------------------------------------------


@pytest.fixture
def pdb(tiny, tmp_path):
    (fold,) = load(tiny)(SEQUENCES[:1])
    path = tmp_path / "self.pdb"
    path.write_text(structure(fold, SEQUENCES[0]).to_pdb())
    return path


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_by_name_and_from_a_file(tiny, pdb, metric):
    from seqalign.load import load_reward

    if metric in ("hydrophobic", "surface", "ss-match"):
        pytest.importorskip("biotite")
    extra = {"protomers": 4} if metric == "symmetry" else {}
    scorer = load_reward("esmfold", metric=metric, structure=str(pdb), weights=str(tiny), **extra)
    assert scorer.name == f"esmfold-{metric}"
    scores = scorer(designs(SEQUENCES))
    assert scores.shape == (1, 3)
    assert bool(scores.isfinite().all())
    best = {"rmsd": 0, "crmsd": 0, "drmsd": 0, "tm": 1, "lddt": 1, "ss-match": 1}
    if metric in best:
        assert float(scores[0, 0]) == pytest.approx(best[metric], abs=0.02)


def test_rewards_of_one_campaign_share_one_folder(tiny, pdb):
    a = folding.esmfold(metric="plddt", weights=tiny)
    b = folding.esmfold(metric="tm", structure=pdb, weights=str(tiny))
    c = folding.esmfold(metric="plddt", weights=tiny, recycles=0)
    assert a.folder is b.folder
    assert a.folder is not c.folder
    before = a.folder.predictions
    mine = designs(["MKTAYIAKQRQISFVKSHFW"])
    a(mine), b(mine), a(mine)
    assert a.folder.predictions == before + 1


def test_missing_weights_say_how_large_they_are_and_what_is_cheaper(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path))
    for weights in ("esmfold_v1", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"8\.4 GB.*ddg-mini.*esm2-pll") as caught:
            folding.esmfold(weights=weights)
        assert "seqalign fetch esmfold_v1" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "half"}, "give one of auto, float32, bfloat16, float16"),
        ({"recycles": -1}, "whole number from 0"),
        ({"device": "gpu"}, "give auto, cpu, cuda"),
        ({"device": "cuda:99"}, "device: auto"),
        ({"metric": "rsmd"}, "give one of plddt"),
    ],
)
def test_wrong_settings_by_name(tiny, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        folding.esmfold(weights=tiny, **options)


def test_without_transformers_the_sentence_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setattr(esmfold, "find_spec", lambda name: None)
    esmfold.folder.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'seqalign\[folding\]'"):
        folding.esmfold(weights=tiny)


def test_card():
    path = Path(folding.__file__).parent / "cards" / "esmfold.yaml"
    card = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert card["name"] == "esmfold"
    assert card["kind"] == "reward"
    assert card["differentiable"] is False
    assert set(card["metrics"]) == set(METRICS)
    for metric, row in card["metrics"].items():
        assert row["unit"] == ("Å" if metric in folding._IN_ANGSTROM else "")
        assert row["direction"].startswith("higher")
    assert all({"what", "split", "seeds", "value", "command"} <= set(f) for f in card["figures"])
    assert all(r.startswith("@") for r in card["references"])
