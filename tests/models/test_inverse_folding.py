"""Inverse folding: parity with the published forward pass, invariances, processes, samplers."""

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import BENCHMARK, backbone_of, network
from checks import counts_are
from torch import Tensor

import seqalign as sa
from seqalign import weights
from seqalign.core.causal import along
from seqalign.core.sequence import PROTEIN
from seqalign.core.streams import Streams
from seqalign.core.unguided import draw
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.models import inverse_folding as folding
from seqalign.models.autoregressive import canonical_order
from seqalign.models.backbone import Backbone
from seqalign.models.inverse_folding import process, published
from seqalign.models.mpnn import MPNN, join, neighbor_graph, of, residue_numbers
from seqalign.models.mpnn_weights import LETTERS, MASKED, Weights, embeddings, load_checkpoint

ROOT = Path(__file__).parents[2]
PARITY = Path(os.environ.get("SEQALIGN_DATA", "absent")).parent / "fixtures" / "parity"
needs_fixtures = pytest.mark.skipif(
    not (PARITY / "fmif_random.pt").exists(),
    reason="needs the parity fixtures beside the public data; set SEQALIGN_DATA",
)


Published = BENCHMARK.Published


def plainly(net: MPNN, k: int, structure: Structure, tokens: Tensor, **how) -> Tensor:
    """Return logits (P, N, V) of the published forward pass, everything per design."""
    p = len(tokens)
    published = Published(net.state_dict(), k)
    h = published.hidden(
        structure.coords.nan_to_num().expand(p, -1, -1, -1),
        structure.mask.float().expand(p, -1),
        structure.residue_index.expand(p, -1),
        structure.chain_index.expand(p, -1),
        tokens,
        **how,
    )
    return published.linear("W_out", h)


def orders(p: int, n: int, seed: int = 0) -> Tensor:
    return torch.rand(p, n, generator=torch.Generator().manual_seed(seed)).argsort(-1)


# parity -------------------------------------------------------------------------------------------


def fixture(name: str) -> tuple[Structure, dict[str, np.ndarray]]:
    z = dict(np.load(PARITY / f"{name}.npz"))
    here = torch.tensor(z["mask"]) > 0
    coords = torch.tensor(z["coords_N_CA_C_O"])
    coords[~here] = torch.nan
    chains = tuple("ABC"[i - 1] for i in z["chain_encoding"])
    numbers = tuple(str(i + 1) for i in range(len(chains)))
    structure = Structure(
        name=name,
        sequence=str(z["sequence"]),
        coords=coords,
        numbering=Numbering(chains, numbers),
        design=torch.ones(len(chains), dtype=torch.bool),
        residue_index=torch.tensor(z["residue_idx"]),
    )
    return structure, z


@needs_fixtures
@pytest.mark.parametrize("name", ["6MRR", "3HTN"])
def test_published_outputs_are_reproduced(name):
    structure, z = fixture(name)
    fixed, masked, oracle = (
        load_checkpoint(PARITY / f"{n}.pt")
        for n in ("proteinmpnn_random", "fmif_random", "drakes_oracle_random")
    )
    assert (fixed.neighbors, masked.neighbors, oracle.neighbors) == (48, 30, 30)
    nodes = fixed.nodes(structure)
    at = torch.full((len(structure),), -1)
    at[nodes] = torch.arange(len(nodes))
    order = at[torch.tensor(z["decoding_order"])]
    order = order[order >= 0]
    backbone = fixed.encode(structure)
    native = fixed.native(structure)
    log_probs = backbone.logits(native[None], backbone.seen(order[None]))[0].log_softmax(-1)
    assert (log_probs - torch.tensor(z["mpnn_log_probs"])[nodes]).abs().max() <= 1e-5
    log_probs = backbone.unconditional().log_softmax(-1)
    assert (log_probs - torch.tensor(z["mpnn_unconditional_log_probs"])[nodes]).abs().max() <= 1e-5
    tokens = torch.tensor(z["fmif_tokens"])[nodes]
    log_probs = masked.encode(structure).logits(tokens[None])[0].log_softmax(-1)
    assert (log_probs - torch.tensor(z["fmif_log_probs"])[nodes]).abs().max() <= 1e-5
    # residues without coordinates get the output bias, and nothing else
    absent = torch.ones(len(structure), dtype=torch.bool)
    absent[nodes] = False
    bias = masked.network.W_out.bias.log_softmax(-1)
    assert torch.allclose(torch.tensor(z["fmif_log_probs"])[absent], bias, atol=1e-5)
    score = oracle.score(oracle.encode(structure), native[None])
    assert abs(float(score) - float(z["oracle_score"][0])) <= 1e-5


@needs_fixtures
def test_the_baseline_of_the_benchmark_is_the_published_network():
    structure, z = fixture("6MRR")
    state = torch.load(PARITY / "proteinmpnn_random.pt", weights_only=True)["model_state_dict"]
    net = of(state)
    native = torch.tensor([[LETTERS.index(a) for a in structure.sequence]])
    order = torch.tensor(z["decoding_order"])[None]
    log_probs = plainly(net, 48, structure, native, order=order)[0].log_softmax(-1)
    assert (log_probs - torch.tensor(z["mpnn_log_probs"])).abs().max() <= 1e-5


@pytest.mark.parametrize(("length", "chains", "k"), [(40, 1, 10), (45, 3, 30), (7, 1, 48)])
@pytest.mark.parametrize("table", [0, 1 << 29])
def test_the_fast_pass_is_the_plain_pass(length, chains, k, table):
    structure = backbone_of(length, seed=length, chains=chains)
    net = network()
    source = Weights(net, k)
    graph = source.encode(structure).graph
    backbone = Backbone.encode(net, graph, room=table)
    assert (backbone.table is None) == (table == 0)
    tokens = torch.randint(22, (3, length), generator=torch.Generator().manual_seed(1))
    assert (backbone.logits(tokens) - plainly(net, k, structure, tokens)).abs().max() <= 1e-5
    order = orders(3, length)
    fast = backbone.logits(tokens, backbone.seen(order))
    assert (fast - plainly(net, k, structure, tokens, order=order)).abs().max() <= 1e-5
    blind = plainly(net, k, structure, tokens[:1], blind=True)[0]
    assert (backbone.unconditional() - blind).abs().max() <= 1e-5
    assert (blind - fast[0]).abs().max() > 0.05


def test_the_training_pass_is_the_fast_pass():
    structure, net = backbone_of(30), network()
    graph = Weights(net, 12).encode(structure).graph
    tokens = torch.randint(22, (30,), generator=torch.Generator().manual_seed(1))
    fast = Backbone.encode(net, graph).logits(tokens[None])[0]
    assert (net(graph, tokens) - fast).abs().max() <= 1e-5


# invariances --------------------------------------------------------------------------------------


def test_padding_changes_nothing():
    structure, net = backbone_of(30), network()
    padded = Structure(
        name="padded",
        sequence=structure.sequence + "X" * 30,
        coords=torch.cat((structure.coords, torch.full((30, 4, 3), torch.nan))),
        numbering=Numbering.plain(60),
        design=torch.ones(60, dtype=torch.bool),
        residue_index=torch.arange(60),
    )
    source = Weights(net, 12)
    x = torch.randint(21, (2, 30), generator=torch.Generator().manual_seed(1))
    first, second = process(source, structure), process(source, padded)
    assert torch.equal(first.network(x, 0.5), second.network(x, 0.5))


@pytest.mark.parametrize("sizes", [(30, 40), (5, 40), (40, 5, 9)])
def test_a_batch_of_backbones_is_each_alone(sizes):
    net = network()
    source = Weights(net, 12)
    structures = [backbone_of(n, seed=n) for n in sizes]
    alone = [source.encode(s) for s in structures]
    tokens = [torch.randint(22, (n,), generator=torch.Generator().manual_seed(n)) for n in sizes]
    want = torch.cat([b.logits(t[None])[0] for b, t in zip(alone, tokens, strict=True)])
    together = join([b.graph for b in alone])
    for table in (0, 1 << 29):
        fast = Backbone.encode(net, together, room=table).logits(torch.cat(tokens)[None])[0]
        assert (fast - want).abs().max() <= 1e-5
    assert (net(together, torch.cat(tokens)) - want).abs().max() <= 1e-5


def test_motion_changes_nothing_and_reflection_does():
    structure, source = backbone_of(30), Weights(network(), 12)
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))
    q = q * torch.det(q).sign()
    moved = replace(structure, coords=structure.coords @ q + 5.0)
    mirrored = replace(structure, coords=structure.coords * torch.tensor([1.0, 1.0, -1.0]))
    want = source.encode(structure).unconditional()
    assert torch.allclose(source.encode(moved).unconditional(), want, atol=1e-3)
    assert (source.encode(mirrored).unconditional() - want).abs().max() > 0.01


def test_relaxed_states_agree_with_tokens_and_have_the_right_gradient():
    structure = backbone_of(12)
    net = network().double()
    graph = neighbor_graph(structure.coords, structure.residue_index, structure.chain_index, 6)
    graph = replace(graph, distance=graph.distance.double())
    native = Weights(net, 6).native(structure)
    run = folding.OnBackbone(Backbone.encode(net, graph), torch.arange(12), native)
    x = torch.randint(21, (18, 12), generator=torch.Generator().manual_seed(1))
    hot = torch.nn.functional.one_hot(x, 21).double()
    assert torch.allclose(run(hot), run(x), atol=1e-5)
    direction = torch.randn(hot.shape, generator=torch.Generator().manual_seed(3)).double()
    pull = torch.randn(18, 12, 20, generator=torch.Generator().manual_seed(4)).double()
    for part in (slice(0, 3), slice(0, 18)):
        # few particles in one graph, many recomputed piece by piece
        leaf = hot[part].clone().requires_grad_()
        (g,) = torch.autograd.grad((run(leaf) * pull[part]).sum(), leaf)
        slope = float((g * direction[part]).sum())
        step = 3e-3
        ahead, behind = (
            run._relaxed(hot[part] + sign * step * direction[part]).double() for sign in (1, -1)
        )
        measured = float(((ahead - behind) * pull[part]).sum()) / (2 * step)
        assert slope == pytest.approx(measured, rel=1e-2)


# processes ----------------------------------------------------------------------------------------


def saved(tmp_path: Path, net: MPNN, neighbors: int | None = 10, **more) -> Path:
    content = {"model_state_dict": {**net.state_dict(), **more}}
    if neighbors is not None:
        content |= {"num_edges": neighbors, "noise_level": 0.2}
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


def test_the_official_format_is_loaded(tmp_path):
    net = network(21)
    source = load_checkpoint(saved(tmp_path, net))
    assert source.neighbors == 10
    assert not source.sees_masks
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.parameters(), source.network.parameters(), strict=True)
    )
    assert load_checkpoint(saved(tmp_path, network(22), None)).neighbors == 30
    assert load_checkpoint(saved(tmp_path, network(22), None), neighbors=24).neighbors == 24


def test_building_a_process_draws_no_random_numbers(tmp_path):
    path = saved(tmp_path, network(22))
    before = torch.get_rng_state()
    published(registered="fmif", structure=backbone_of(9), checkpoint=path, bfloat16=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_oracle_is_read_with_its_head(tmp_path):
    head = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    net, structure = network(22), backbone_of(20)
    more = {f"W_out_mlp.{k}": v for k, v in head.state_dict().items()}
    oracle = load_checkpoint(saved(tmp_path, net, None, **more))
    tokens = torch.randint(20, (6, 20), generator=torch.Generator().manual_seed(0))
    scores = oracle.score(oracle.encode(structure), tokens)
    published = Published(net.state_dict(), 30)
    h = published.hidden(
        structure.coords.expand(6, -1, -1, -1),
        torch.ones(6, 20),
        structure.residue_index.expand(6, -1),
        torch.zeros(6, 20, dtype=torch.int64),
        tokens,
    )
    assert torch.allclose(scores, head(h.mean(1))[:, 0], atol=1e-5)
    with pytest.raises(TypeError, match="no oracle"):
        Weights(net, 30).score(oracle.encode(structure), tokens)
    with pytest.raises(TypeError, match="scores sequences and draws none"):
        process(oracle, structure)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "cannot be read as a PyTorch checkpoint"),
        ({"weights": 1}, "has no 'model_state_dict'"),
        ({"model_state_dict": {"a": torch.zeros(1)}}, "not those of a ProteinMPNN network"),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "file.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)


# names and shapes that the published files have and ProteinMPNN's have not, or not so
RELATIVES = {
    "CA-only": ({"W_v.weight": (8, 8), "features.node_embedding.weight": (8, 3)}, 167),
    "side-chain packer": (
        {
            "W_v.weight": (8, 8),
            "features.y_nodes.weight": (8, 147),
            "W_torsions.weight": (36, 8),
        },
        416,
    ),
}


@pytest.mark.parametrize("kind", RELATIVES)
@pytest.mark.parametrize("model", ["proteinmpnn", "ligandmpnn", "fmif"])
def test_a_relative_is_called_what_it_is(tmp_path, kind, model):
    more, width = RELATIVES[kind]
    state = {name: torch.zeros(shape) for name, shape in more.items()}
    state["features.edge_embedding.weight"] = torch.zeros(8, width)
    path = saved(tmp_path, network(21), **state)
    with pytest.raises(ValueError, match=kind) as raised:
        sa.load_model(model, structure=backbone_of(9), checkpoint=str(path))
    said = str(raised.value)
    assert [k for k in RELATIVES if k in said] == [kind]
    assert "reads vanilla, soluble and membrane ones, as v_48_020 and soluble-v_48_020" in said


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ca-v_48_020", "CA-only"),
        ("ligandmpnn-v_32_010_25", "a LigandMPNN, .* the model ligandmpnn reads it"),
    ],
)
def test_a_name_of_a_relative_is_refused_before_it_is_fetched(name, kind):
    with pytest.raises(ValueError, match=kind) as raised:
        sa.load_model("proteinmpnn", structure=backbone_of(9), checkpoint=name)
    assert "seqalign fetch" not in str(raised.value)


def test_the_published_short_name_is_known():
    with pytest.raises(weights.MissingWeights, match=r"seqalign fetch proteinmpnn-v_48_020$"):
        load_checkpoint("v_48_020")


def test_a_network_of_the_other_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Use the model fmif"):
        published(
            registered="proteinmpnn",
            structure=backbone_of(9),
            checkpoint=saved(tmp_path, network(22)),
        )
    with pytest.raises(ValueError, match="Use the model proteinmpnn"):
        published(
            registered="fmif", structure=backbone_of(9), checkpoint=saved(tmp_path, network(21))
        )


def test_a_process_knows_its_structure(tmp_path):
    structure = backbone_of(24, chains=2)
    coords = structure.coords.clone()
    coords[3, 2] = torch.nan
    structure = replace(
        structure,
        sequence=structure.sequence[:6] + "X" + structure.sequence[7:],
        coords=coords,
        design=torch.arange(24) < 12,
    )
    for kind, letters in (("fmif", 22), ("proteinmpnn", 21)):
        checkpoint = saved(tmp_path, network(letters))
        p = published(registered=kind, structure=structure, checkpoint=checkpoint)
        known = [i for i in range(24) if i not in (3, 6)]
        assert p.length == p.steps == 22
        assert p.wild_type == "".join(structure.sequence[i] for i in known)
        assert p.numbering.name(4) == "A5"
        assert p.numbering.positions(p.keep) == tuple(range(11, 23))
        assert p.differentiable == (letters == 22)
        # X is seen (token 20), the residue without C is not there
        assert int((p.network.tokens == 20).sum()) == 1
        assert len(p.network.tokens) == 23
        x = PROTEIN.encode([p.wild_type])[None]
        posterior = p.posterior(x, 0.5)
        assert torch.equal(posterior.mode, x)
        x[..., ::3] = PROTEIN.mask
        posterior = p.posterior(x, 0.5)
        assert torch.allclose(posterior.mean.sum(-1), torch.ones(1, 1, 22), atol=1e-5)


def test_a_file_gives_the_process_of_its_structure(tmp_path):
    structure = backbone_of(16)
    path = tmp_path / "small.pdb"
    path.write_text(structure.to_pdb())
    p = published(registered="fmif", structure=path, checkpoint=saved(tmp_path, network()))
    assert p.wild_type == structure.wild_type
    assert p.numbering.name(16) == "A16"


@pytest.mark.parametrize(("name", "letters"), [("fmif", 22), ("proteinmpnn", 21)])
def test_models_are_found_and_designed_with(tmp_path, name, letters):
    structure = replace(backbone_of(16, chains=2), design=torch.arange(16) < 8)
    model = sa.load_model(
        name, structure=structure, checkpoint=saved(tmp_path, network(letters)), omit="C", fix="A2"
    )
    method = sa.load_method("smc", alpha=0.5)
    samples = method(
        model.process, sa.load_reward("charge"), (2, 4), rng=Streams(0, (0, 1)), space=model.space
    )
    wild_type = structure.sequence
    for row in samples.designs.sequences:
        for sequence in row:
            assert sequence[8:] == wild_type[8:]
            assert sequence[1] == wild_type[1]
            assert "C" not in sequence[:1] + sequence[2:8]


def test_masked_diffusion_sees_the_mask_token():
    structure, net = backbone_of(20), network()
    p = process(Weights(net, 8), structure, temperature=0.5)
    x = torch.randint(21, (2, 3, 20), generator=torch.Generator().manual_seed(0))
    tokens = torch.where(x == PROTEIN.mask, MASKED, x).flatten(0, 1)
    want = plainly(net, 8, structure, tokens)[..., :20].view(2, 3, 20, 20)
    assert torch.allclose(p.network(x, 0.5), want, atol=1e-5)
    masked = x == PROTEIN.mask
    posterior = p.posterior(x, 0.5).log_probs
    assert torch.allclose(posterior[masked], (want / 0.5).log_softmax(-1)[masked], atol=1e-4)


def test_proteinmpnn_decodes_given_letters_in_one_order_and_a_masked_one_last():
    structure, net = backbone_of(20), network(21)
    p = process(Weights(net, 8), structure)
    x = torch.randint(21, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    logits = p.network(x, 0.5)[0]
    order = canonical_order(20).tolist()
    for k in range(4):
        known = [i for i in order if x[0, k, i] < 20]
        for i in (j for j in range(20) if x[0, k, j] == 20):
            rest = [j for j in range(20) if j not in known and j != i]
            line = torch.tensor([[*known, i, *rest]])
            tokens = torch.where(x[0, k] == 20, 0, x[0, k])[None]
            want = plainly(net, 8, structure, tokens, order=line)[0, i, :20]
            assert torch.allclose(logits[k, i], want, atol=1e-5)
    # what a masked position holds is nothing to any other
    with pytest.raises(TypeError, match="takes letters"):
        p.network(torch.nn.functional.one_hot(x, 21).float())


def test_a_structure_without_whole_backbones_is_refused():
    structure = backbone_of(9)
    coords = structure.coords.clone()
    coords[4, 3] = torch.nan
    lax = replace(structure, coords=coords, require=("CA",))
    with pytest.raises(ValueError, match="residue A5 lacks backbone atoms"):
        process(Weights(network(), 8), lax)
    with pytest.raises(ValueError, match="nothing to design"):
        process(Weights(network(), 8), replace(structure, sequence="X" * 9))


def test_half_precision_is_close():
    structure, net = backbone_of(40), network(width=32)
    x = torch.randint(21, (1, 4, 40), generator=torch.Generator().manual_seed(0))
    full, half = (
        process(Weights(net, 16), structure, bfloat16=b).posterior(x, 0.5).log_probs
        for b in (False, True)
    )
    finite = full.isfinite()
    error = (full[finite] - half[finite]).abs()
    assert half.dtype == torch.float32
    assert 0 < float(error.mean()) < 0.05


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compilation_changes_nothing_but_rounding():
    structure, net = backbone_of(40), network()
    x = torch.randint(21, (1, 4, 40), generator=torch.Generator().manual_seed(0))
    plain, compiled = (process(Weights(net, 16), structure, compiled=c) for c in (False, True))
    with torch.no_grad():
        assert torch.allclose(plain.network(x), compiled.network(x), atol=1e-5)


# a network that remembers -------------------------------------------------------------------------


def partly(length: int = 15, seed: int = 1) -> tuple[MPNN, Structure, Tensor]:
    """Return a network, a backbone and tokens (length,) with the given letters, the rest masked."""
    structure, net = backbone_of(length), network(21)
    x = Weights(net, 6).native(structure)
    free = torch.rand(length, generator=torch.Generator().manual_seed(seed)) < 0.7
    return net, structure, torch.where(free, PROTEIN.mask, x)


def in_order(x: Tensor, revealed: list[int]) -> Tensor:
    """Return nodes in the order in which they are decoded: given ones, then revealed ones."""
    n = len(x)
    given = [i for i in canonical_order(n).tolist() if i not in revealed and x[i] < 20]
    rest = [i for i in range(n) if i not in given and i not in revealed]
    return torch.tensor([*given, *revealed, *rest])


@pytest.mark.parametrize("table", [0, 1 << 29])
def test_a_chain_follows_the_published_law(table):
    net, structure, start = partly()
    p = process(Weights(net, 6), structure, temperature=0.7)
    run = replace(p.network, backbone=Backbone.encode(net, p.network.backbone.graph, room=table))
    p = replace(p, network=run)
    x = start.expand(2, 3, -1)
    posterior, t, rng = p.posterior(x, 1.0), 1.0, Streams(5, (0, 1))
    path: list[list[list[int]]] = [[[] for _ in range(3)] for _ in range(2)]
    for step in range(int((start == PROTEIN.mask).sum()) + 1):
        for b in range(2):
            for k in range(3):
                line = in_order(start, path[b][k])[None]
                tokens = torch.where(x[b, k] == 20, 0, x[b, k])[None]
                open_ = x[b, k] == 20
                for i in open_.nonzero()[:, 0].tolist():
                    # each open one as if it came next
                    seen = in_order(start, [*path[b][k], i])[None]
                    logits = plainly(net, 6, structure, tokens, order=seen)[0, i, :20] / 0.7
                    want = logits.log_softmax(-1)
                    assert torch.allclose(posterior.log_probs[b, k, i], want, atol=1e-4), line
        if step == int((start == PROTEIN.mask).sum()):
            break
        x_s = p.transition(x, posterior, t, t).sample(rng.at("reveal", step))
        for b in range(2):
            for k in range(3):
                path[b][k] += (x_s[b, k] != x[b, k]).nonzero()[:, 0].tolist()
        # what is kept moves with the particles
        ancestors = torch.tensor([[2, 0, 0], [1, 1, 2]])
        x = x_s.gather(1, ancestors[..., None].expand_as(x_s))
        path = [[path[b][j].copy() for j in ancestors[b].tolist()] for b in range(2)]
        rows = ancestors + torch.tensor([[0], [3]])
        moved = posterior.map(
            lambda v: v.flatten(0, 1)[rows.flatten()].unflatten(0, (2, 3))  # noqa: B023
        )
        posterior = p.posterior(x, t, moved)


def test_letters_revealed_at_once_do_not_see_each_other():
    net, structure, start = partly()
    p = process(Weights(net, 6), structure, order="parallel", steps=3, temperature=1.0)
    x = start[None, None]
    posterior, open_ = p.posterior(x, 1.0), (start == PROTEIN.mask).nonzero()[:, 0].tolist()
    y = x.clone()
    y[0, 0, open_[:4]] = torch.tensor([3, 7, 11, 0])
    found = p.posterior(y, 0.5, posterior).log_probs[0, 0, open_[5]]
    index = p.network.backbone.graph.index
    rank = in_order(start, open_[:4]).argsort().float()
    rank[open_[:4]] = float(rank[open_[0]])
    rank[open_[5]] = rank[open_[0]] + 0.5
    tokens = torch.where(y[0] == 20, 0, y[0])
    seen = rank[index] < rank[:, None]
    want = p.network.backbone.logits(tokens, seen[None])[0, open_[5], :20].log_softmax(-1)
    assert torch.allclose(found, want, atol=1e-4)


def test_an_unguided_draw_has_the_likelihood_of_its_order():
    net, structure, start = partly()
    p = process(Weights(net, 6), structure, temperature=0.7)
    noted, cooled = [], p.cooled

    def telling(logits: Tensor, at: Tensor) -> Tensor:
        noted.append((at, cooled(logits, at)))
        return noted[-1][1]

    object.__setattr__(p, "cooled", telling)
    x, shift = draw(p, start.expand(1, 4, -1), Streams(0, (0,)))
    object.__setattr__(p, "cooled", cooled)
    assert bool((shift == 0).all())
    assert torch.equal(x[0, :, start < 20], start[start < 20].expand(4, -1))
    for k in range(4):
        path = torch.stack([at[k] for at, _ in noted])
        assert path.sort().values.tolist() == (start == 20).nonzero()[:, 0].tolist()
        line = in_order(start, path.tolist())[None]
        logits = plainly(net, 6, structure, x[:, k], order=line)[0, :, :20].double() / 0.7
        told = torch.stack([logits_[k] for _, logits_ in noted])
        assert torch.allclose(told.double(), logits[path], atol=1e-4)
        log_p = logits.log_softmax(-1)[path].gather(-1, x[0, k, path][:, None]).sum()
        assert along(p, x[0, k][None], path) == pytest.approx(float(log_p), abs=1e-3)


def pair() -> tuple[MPNN, Structure, Tensor]:
    """Return a network, two residues and the law (20, 20) of their letters over both orders."""
    structure, net = backbone_of(2), network(21)
    law = torch.zeros(20, 20, dtype=torch.float64)
    pairs = torch.cartesian_prod(torch.arange(20), torch.arange(20))
    for order in ([0, 1], [1, 0]):
        line = torch.tensor([order]).expand(400, 2)
        logits = plainly(net, 2, structure, pairs, order=line)[..., :20].double()
        log_p = logits.log_softmax(-1).gather(-1, pairs[..., None])[..., 0].sum(-1)
        law += 0.5 * log_p.exp().view(20, 20)
    return net, structure, law


def test_unguided_draws_and_the_chain_have_one_law():
    net, structure, law = pair()
    p = process(Weights(net, 2), structure, temperature=1.0)
    x, _ = draw(p, p.prior((1, 4000), Streams(3, (0,))), Streams(3, (0,)))
    counts_are(torch.bincount(x[0, :, 0] * 20 + x[0, :, 1], minlength=400), law.flatten())
    samples = sa.SMC(p, sa.reward(lambda s: [0.0] * len(s)), 1.0, value=None).run(
        (1, 4000), Streams(4, (0,))
    )[0]
    x = samples.x
    counts_are(torch.bincount(x[0, :, 0] * 20 + x[0, :, 1], minlength=400), law.flatten())


def test_forbidden_letters_weigh_what_they_take():
    net, structure, law = pair()
    p = process(Weights(net, 2), structure, temperature=1.0)
    allowed = torch.ones(2, 20, dtype=torch.bool)
    allowed[0, :12] = False
    allowed[1, 5:] = False
    x, shift = draw(p, p.prior((1, 4000), Streams(3, (0,))), Streams(3, (0,)), allowed=allowed)
    assert bool(allowed.gather(1, x[0].T).all())
    z = float(law[12:, :5].sum())
    w = shift.exp()[0]
    assert abs(float(w.mean()) - z) < 4.5 * float(w.std()) / 4000**0.5


# what rewards read --------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", [21, 22])
def test_embeddings_are_of_the_known_residues(letters):
    structure = backbone_of(20)
    structure = replace(structure, sequence=structure.sequence[:6] + "X" + structure.sequence[7:])
    net = network(letters)
    found = embeddings(structure, Weights(net, 8))
    assert found.residues.shape == (19, 16)
    assert torch.allclose(found.log_probs.exp().sum(-1), torch.ones(19), atol=1e-5)
    tokens = torch.full((1, 20), MASKED if letters == 22 else 0)
    tokens[0, 6] = 20
    how = {} if letters == 22 else {"blind": True}
    want = plainly(net, 8, structure, tokens, **how)[0, structure.known, :20].log_softmax(-1)
    assert torch.allclose(found.log_probs, want, atol=1e-5)


def test_a_break_in_the_chain_is_a_jump():
    coords = backbone_of(6).coords.clone()
    coords[:] = BENCHMARK.bundle(6).coords
    apart = coords.clone()
    apart[3:] += 20.0
    assert residue_numbers(coords).tolist() == [0, 1, 2, 3, 4, 5]
    assert residue_numbers(apart).tolist() == [0, 1, 2, 103, 104, 105]


def test_neighbors_are_the_nearest_and_itself_first():
    structure = backbone_of(30)
    graph = neighbor_graph(structure.coords, structure.residue_index, structure.chain_index, 7)
    d = torch.cdist(structure.coords[:, 1], structure.coords[:, 1])
    assert torch.equal(graph.index[:, 0], torch.arange(30))
    assert torch.equal(graph.index.sort(-1).values, d.argsort(-1)[:, :7].sort(-1).values)
    assert math.isclose(
        float(graph.distance[4, 3, 0]), float(d[4, graph.index[4, 3]]), rel_tol=1e-4
    )
