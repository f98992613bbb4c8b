"""LigandMPNN and membrane networks: parity with published outputs, invariances, processes."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import backbone_of, network
from torch import Tensor

import seqalign as sa
from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.core.streams import Streams
from seqalign.files.beside import ContextAtoms
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure, read_structure
from seqalign.models import ligand_mpnn
from seqalign.models.backbone import Backbone
from seqalign.models.inverse_folding import ligandmpnn, published
from seqalign.models.ligand_mpnn import ContextEncoder, Nearby, group_and_period, nearest
from seqalign.models.membrane import LabelEncoder, labels
from seqalign.models.mpnn_weights import LETTERS, Weights, load_checkpoint

COMPLEXES = Path(os.environ.get("SEQALIGN_DATA", "absent")).parent / "fixtures" / "complexes"
needs_complexes = pytest.mark.skipif(
    not (COMPLEXES / "3MHT.npz").exists(),
    reason="needs fixtures/complexes beside the public data; set SEQALIGN_DATA",
)
# what the published code gives on streptavidin with biotin, and its backbone
SLICES = [
    Path(__file__).parents[1] / "data" / f"published_1MK5_A{part}.npz" for part in ("", "_ligand")
]
FILES = {"1MK5_A": "1MK5_A.cif.gz", "7RPZ_A": "7RPZ_A.cif.gz", "3MHT": "3MHT.pdb.gz"}
TOLERANCE = 1e-4
LIGAND = "ligandmpnn-v_32_010_25"
MEMBRANES = [
    pytest.param(prefix, name, label, marks=pytest.mark.weights(name))
    for prefix, name, label in (
        ("membrane_0", "membrane-global-v_48_020", "soluble"),
        ("membrane_1", "membrane-global-v_48_020", "transmembrane"),
        ("membrane_residue", "membrane-residue-v_48_020", "each"),
    )
]


def complex_of(name: str) -> tuple[Structure, dict[str, np.ndarray]]:
    """Return a complex as it is read, with the residue numbers of the fixture, and its arrays."""
    z = dict(np.load(COMPLEXES / f"{name}.npz"))
    structure = read_structure(COMPLEXES / FILES[name])
    assert structure.sequence == str(z["sequence"])
    assert np.array_equal(structure.coords.numpy(), z["coords_N_CA_C_O"])
    return replace(structure, residue_index=torch.tensor(z["residue_idx"])), z


def streptavidin() -> tuple[Structure, dict[str, np.ndarray]]:
    """Return streptavidin with biotin as the slices have it, and their arrays."""
    z = {k: v for path in SLICES for k, v in np.load(path).items()}
    n = len(z["residue_idx"])
    names = tuple(str(i) for i in range(len(z["ligand_element"])))
    atoms = ContextAtoms(
        torch.tensor(z["ligand_xyz"]), torch.tensor(z["ligand_element"]).long(), names
    )
    structure = Structure(
        name="1MK5",
        sequence=str(z["sequence"]),
        coords=torch.tensor(z["coords_N_CA_C_O"]),
        numbering=Numbering(("A",) * n, tuple(str(i) for i in z["residue_idx"])),
        design=torch.ones(n, dtype=torch.bool),
        residue_index=torch.tensor(z["residue_idx"]).long(),
        context_atoms=atoms,
    )
    tokens = np.array([LETTERS.index(a) for a in structure.sequence])
    return structure, {**z, "tokens": tokens}


def off(logits: Tensor, expected: np.ndarray, letters: int = 21) -> float:
    """Return the largest difference of log-probabilities."""
    found = logits.log_softmax(-1) - torch.tensor(expected)
    return float(found[..., :letters].abs().max())


def agrees(backbone: Backbone, z: dict[str, np.ndarray], prefix: str, letters: int = 21) -> None:
    """Compare teacher-forced, unconditional and partly masked rows with those of a fixture."""
    tokens = torch.tensor(z["tokens"])[None]
    seen = backbone.seen(torch.tensor(z["decoding_order"]).long()[None])
    logits = backbone.logits(tokens, seen)[0]
    assert off(logits, z[f"{prefix}_log_probs"], letters) <= TOLERANCE
    if f"{prefix}_unconditional_log_probs" in z:
        expected = z[f"{prefix}_unconditional_log_probs"]
        assert off(backbone.unconditional(), expected) <= TOLERANCE
    if f"{prefix}_masked_log_probs" in z:
        n, index = tokens.shape[1], backbone.graph.index
        rank = torch.full((n,), n)
        visible = torch.tensor(z["visible_order"]).long()
        rank[visible] = torch.arange(len(visible))
        masked = torch.tensor(z["masked_positions"]).long()
        # letters of masked residues have no effect
        tokens[0, masked] = 0
        logits = backbone.logits(tokens, (rank[index] < rank[:, None])[None])[0, masked]
        assert off(logits, z[f"{prefix}_masked_log_probs"]) <= TOLERANCE


@pytest.mark.weights(LIGAND)
def test_log_probabilities_are_the_published_ones():
    structure, z = streptavidin()
    source = load_checkpoint(LIGAND)
    agrees(source.encode(structure), z, "ligand")
    z |= {"none_log_probs": z["ligand_no_context_log_probs"]}
    agrees(source.encode(structure, context_atoms=False), z, "none")


@pytest.mark.weights(LIGAND)
@needs_complexes
@pytest.mark.parametrize("name", FILES)
def test_the_published_network_is_reproduced(name):
    structure, z = complex_of(name)
    ligand = load_checkpoint(LIGAND)
    backbone = ligand.encode(structure)
    h, e = ligand.network.encode(backbone.graph)
    assert ligand.context is not None
    near = Nearby(torch.tensor(z["Y"]), torch.tensor(z["Y_t"]))
    # the atoms of the published featurizer, padded, and those of ours
    theirs = ligand.context(h, structure.coords, near)
    agrees(Backbone.encode(ligand.network, backbone.graph, encoded=(theirs, e)), z, "ligand")
    agrees(backbone, z, "ligand")
    if "ligand_node_embedding" in z:
        assert (theirs - torch.tensor(z["ligand_node_embedding"])).abs().max() <= TOLERANCE
        assert np.array_equal(backbone.graph.index, z["neighbors"])
    blind = ligand.encode(structure, context_atoms=False)
    agrees(blind, {**z, "none_log_probs": z["ligand_no_context_log_probs"]}, "none")


@needs_complexes
@pytest.mark.parametrize("name", FILES)
def test_the_published_atoms_are_read_and_chosen(name):
    structure, z = complex_of(name)
    atoms = structure.context_atoms
    assert list(atoms.names) == list(z["ligand_atoms"])
    assert np.array_equal(atoms.element, z["ligand_element"])
    assert np.array_equal(atoms.xyz, z["ligand_xyz"])
    near = nearest(structure.coords, atoms.xyz, atoms.element, 25)
    k = near.element.shape[1]
    assert k == min(25, len(atoms))
    assert not z["Y_m"][:, k:].any()
    ours, theirs = (
        (xyz - structure.virtual_cb[:, None]).norm(dim=-1)
        for xyz in (near.xyz, torch.tensor(z["Y"])[:, :k])
    )
    assert (ours - theirs).abs().max() <= 1e-4
    # which of two atoms at nearly the same distance comes first, nobody can say
    apart = (theirs.diff(prepend=torch.full((len(theirs), 1), -1.0)).abs() > 1e-3) & (
        theirs.diff(append=torch.full((len(theirs), 1), 1e9)).abs() > 1e-3
    )
    assert apart.float().mean() > 0.9
    assert np.array_equal(near.element[apart], z["Y_t"][:, :k][apart.numpy()])


@pytest.mark.parametrize(("prefix", "name", "label"), MEMBRANES)
def test_membrane_networks_are_reproduced(prefix, name, label):
    structure, z = streptavidin()
    if label == "each":
        said = z["membrane_residue_labels"]
        at = {kind: 1 + np.flatnonzero(said == n) for kind, n in (("interface", 1), ("buried", 2))}
        label = {kind: structure.numbering.names(i.tolist()) for kind, i in at.items()}
    # X was never trained in the last one
    letters = 20 if prefix == "membrane_residue" else 21
    agrees(load_checkpoint(name).encode(structure, label=label), z, prefix, letters)


# laws without weights -----------------------------------------------------------------------------


def encoder(width: int = 16, seed: int = 0) -> ContextEncoder:
    """Return a small context encoder whose outputs differ clearly."""
    torch.manual_seed(seed)
    net = ContextEncoder(width, 2, 8)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval().requires_grad_(False)


def atoms_around(structure: Structure, count: int, seed: int = 0) -> ContextAtoms:
    """Return random atoms some Å from random residues."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.randint(len(structure), (count,), generator=generator)
    shift = 4.0 * torch.randn(count, 3, generator=generator)
    element = torch.tensor([6, 7, 8, 15, 30])[torch.randint(5, (count,), generator=generator)]
    names = tuple(f"L:LIG1:{i}" for i in range(count))
    return ContextAtoms(structure.coords[at, 1] + shift, element, names)


def of(atoms: ContextAtoms, order: Tensor) -> ContextAtoms:
    names = tuple(atoms.names[i] for i in order.tolist())
    return ContextAtoms(atoms.xyz[order], atoms.element[order], names)


SOURCE = Weights(network(21), 12, context=encoder(), atoms=6)


def with_ligand(length: int = 30, count: int = 20) -> Structure:
    structure = backbone_of(length)
    return replace(structure, context_atoms=atoms_around(structure, count))


def plainly(net: ContextEncoder, h: Tensor, coords: Tensor, atoms: list[tuple[Tensor, int]]):
    """Return one residue (H,) as it was published: concatenated inputs, one atom at a time."""
    net = net.double()
    h, coords = h.double(), coords.double()
    n, ca, c, o = coords
    b, d = ca - n, c - ca
    a = torch.linalg.cross(b, d)
    cb = -0.58273431 * a + 0.56802827 * b - 0.54067466 * d + ca
    x = (n - ca) / (n - ca).norm()
    y = (c - ca) - x * torch.dot(x, c - ca)
    y = y / y.norm()
    frame = torch.stack((x, y, torch.linalg.cross(x, y)))

    def radial(p: Tensor, q: Tensor) -> Tensor:
        distance = ((p - q).square().sum() + 1e-6).sqrt()
        return torch.exp(-(((distance - torch.linspace(2, 22, 16).double()) / 1.25) ** 2))

    def message(layer, state: Tensor, inputs: list[Tensor]) -> Tensor:
        total = torch.zeros_like(state)
        for other in inputs:
            m = gelu(layer.W1(torch.cat((state, other))))
            total = total + layer.W3(gelu(layer.W2(m))) / 30
        state = layer.norm1(state + total)
        return layer.norm2(state + layer.dense.W_out(gelu(layer.dense.W_in(state))))

    f, gelu = net.features, torch.nn.functional.gelu
    seen, own = [], []
    for xyz, z in atoms:
        kind = torch.zeros(147, dtype=torch.float64)
        group, period = group_and_period(z)
        kind[[z, 120 + group, 139 + period]] = 1.0
        place = frame @ (xyz.double() - ca)
        flat = (place[0] ** 2 + place[1] ** 2).sqrt()
        angles = torch.stack((place[0] / flat, place[1] / flat, flat, place[2]))
        angles[2:] /= place.norm()
        near = torch.cat([radial(p, xyz.double()) for p in (n, ca, c, o, cb)])
        inputs = torch.cat((near, f.type_linear(kind), angles))
        seen.append(net.W_v(f.norm_nodes(f.node_project_down(inputs))))
        own.append(net.W_nodes_y(f.norm_y_nodes(f.y_nodes(kind))))
    pairs = [
        [net.W_edges_y(f.norm_y_edges(f.y_edges(radial(p.double(), q.double())))) for q, _ in atoms]
        for p, _ in atoms
    ]
    state = net.W_c(h)
    for among, layer in zip(net.y_context_encoder_layers, net.context_encoder_layers, strict=True):
        own = [message(among, atom, row) for atom, row in zip(own, pairs, strict=True)]
        state = message(layer, state, [torch.cat(x) for x in zip(seen, own, strict=True)])
    return h + net.V_C_norm(net.V_C(state))


def test_the_fast_pass_is_the_plain_pass():
    structure = with_ligand()
    atoms = structure.context_atoms
    h = torch.randn(30, 16, generator=torch.Generator().manual_seed(3))
    near = nearest(structure.coords, atoms.xyz, atoms.element, 6)
    fast = encoder()(h, structure.coords, near)
    for i in (0, 11, 29):
        mine = list(zip(near.xyz[i], near.element[i].tolist(), strict=True))
        slow = plainly(encoder(), h[i], structure.coords[i], mine)
        assert (fast[i] - slow).abs().max() <= 1e-5


def test_motion_changes_nothing_and_reflection_does():
    structure = with_ligand()
    atoms = structure.context_atoms
    want = SOURCE.encode(structure).h
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))
    q = q * torch.det(q).sign()
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    moved, mirrored = (
        replace(
            structure,
            coords=structure.coords @ m + shift,
            context_atoms=replace(atoms, xyz=atoms.xyz @ m + shift),
        )
        for m, shift in ((q, 5.0), (mirror, 0.0))
    )
    assert torch.allclose(SOURCE.encode(moved).h, want, atol=1e-3)
    assert (SOURCE.encode(mirrored).h - want).abs().max() > 0.01
    # the ligand alone: it is seen where it lies
    turned = replace(structure, context_atoms=replace(atoms, xyz=atoms.xyz @ q))
    assert (SOURCE.encode(turned).h - want).abs().max() > 0.01


def test_the_order_of_atoms_in_the_file_says_nothing_and_their_elements_do():
    structure = with_ligand()
    atoms = structure.context_atoms
    want = SOURCE.encode(structure).h
    shuffled = of(atoms, torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    found = SOURCE.encode(replace(structure, context_atoms=shuffled)).h
    assert torch.allclose(found, want, atol=1e-5)
    other = replace(atoms, element=torch.where(atoms.element == 6, 16, atoms.element))
    found = SOURCE.encode(replace(structure, context_atoms=other)).h
    assert (found - want).abs().max() > 0.01


def test_only_the_nearest_atoms_are_seen():
    structure = with_ligand(count=40)
    atoms = structure.context_atoms
    near = nearest(structure.coords, atoms.xyz, atoms.element, 6)
    d = (structure.virtual_cb[:, None] - atoms.xyz).norm(dim=-1)
    assert torch.equal(near.xyz, atoms.xyz[d.argsort(-1)[:, :6]])
    i = 7
    seen = set(d[i].argsort()[:6].tolist())
    # what the others are is nothing to this residue
    away = torch.tensor([k in seen for k in range(40)])
    moved = torch.where(away[:, None], atoms.xyz, atoms.xyz + 1000.0)
    found = SOURCE.encode(replace(structure, context_atoms=replace(atoms, xyz=moved))).h
    want = SOURCE.encode(structure).h
    assert torch.allclose(found[i], want[i], atol=1e-5)
    assert (found - want).abs().max() > 0.01


@pytest.mark.parametrize("count", [0, 1, 4])
def test_atoms_that_are_not_there_are_nothing(count):
    structure = with_ligand(count=count)
    atoms, coords = structure.context_atoms, structure.coords
    h = torch.randn(30, 16, generator=torch.Generator().manual_seed(3))
    near = nearest(coords, atoms.xyz, atoms.element, 6)
    assert near.xyz.shape == (30, count, 3)
    context = encoder()
    want = context(h, coords, near)
    far = torch.full((30, 6 - count, 3), 7.0)
    none = torch.zeros(30, 6 - count, dtype=torch.int64)
    padded = Nearby(torch.cat((near.xyz, far), 1), torch.cat((near.element, none), 1))
    assert torch.allclose(context(h, coords, padded), want, atol=1e-5)
    blind = context(h, coords, nearest(coords, atoms.xyz, atoms.element, 0))
    assert torch.allclose(blind, want, atol=1e-5) == (count == 0)
    # the layers still run: this is no ProteinMPNN
    assert (blind - h).abs().max() > 0.01


def test_residues_are_looked_at_in_pieces_of_any_size(monkeypatch):
    structure = with_ligand()
    want = SOURCE.encode(structure).h
    monkeypatch.setattr(ligand_mpnn, "RESIDUES", 7)
    assert torch.allclose(SOURCE.encode(structure).h, want, atol=1e-6)


def test_a_network_without_context_layers_sees_no_atoms():
    structure = with_ligand()
    bare = replace(structure, context_atoms=ContextAtoms())
    plain = replace(SOURCE, context=None)
    assert torch.equal(plain.encode(structure).h, plain.encode(bare).h)
    assert (SOURCE.encode(structure).h - SOURCE.encode(bare).h).abs().max() > 0.01
    unseeing = SOURCE.encode(structure, context_atoms=False)
    assert torch.equal(unseeing.h, SOURCE.encode(bare).h)


def test_elements_have_the_groups_and_periods_of_the_table():
    known = {
        0: (0, 0), 1: (1, 1), 2: (18, 1), 3: (1, 2), 5: (13, 2), 6: (14, 2), 12: (2, 3),
        15: (15, 3), 20: (2, 4), 21: (3, 4), 26: (8, 4), 30: (12, 4), 35: (17, 4), 42: (6, 5),
        53: (17, 5), 56: (2, 6), 57: (3, 6), 64: (3, 6), 71: (3, 6), 72: (4, 6), 80: (12, 6),
        86: (18, 6), 92: (3, 7), 103: (3, 7), 104: (4, 7), 118: (18, 7), 119: (0, 0),
    }  # fmt: skip
    assert {z: group_and_period(z) for z in known} == known


# models -------------------------------------------------------------------------------------------


def saved(tmp_path: Path, *modules: torch.nn.Module, name: str = "weights.pt", **more) -> Path:
    state = {k: v for module in modules for k, v in module.state_dict().items()}
    path = tmp_path / name
    torch.save({"model_state_dict": state, "num_edges": 12, **more}, path)
    return path


def test_a_checkpoint_with_context_layers_is_loaded(tmp_path):
    path = saved(tmp_path, network(21), encoder(), atom_context_num=6)
    source = load_checkpoint(path)
    assert (source.neighbors, source.atoms, source.sees_masks) == (12, 6, False)
    structure = with_ligand()
    assert torch.equal(source.encode(structure).h, SOURCE.encode(structure).h)


def test_each_model_takes_its_own_checkpoint(tmp_path):
    structure = with_ligand(9)
    with_context = saved(tmp_path, network(21), encoder(), name="ligand.pt")
    plain, masks = (saved(tmp_path, network(n), name=f"{n}.pt") for n in (21, 22))
    for name in ("proteinmpnn", "fmif"):
        with pytest.raises(ValueError, match=r"a LigandMPNN, .* the model ligandmpnn reads it"):
            published(registered=name, structure=structure, checkpoint=with_context)
    with pytest.raises(ValueError, match=r"no LigandMPNN.*Use the model proteinmpnn"):
        ligandmpnn(structure=structure, checkpoint=plain)
    with pytest.raises(ValueError, match=r"no LigandMPNN.*Use the model fmif"):
        ligandmpnn(structure=structure, checkpoint=masks)
    # names are refused before they are fetched
    with pytest.raises(ValueError, match=r"v_48_020: is no LigandMPNN"):
        ligandmpnn(structure=structure, checkpoint="v_48_020")
    broken = {"W_nodes_y.weight": torch.zeros(8, 8)}
    torch.save({"model_state_dict": broken}, tmp_path / "broken.pt")
    with pytest.raises(ValueError, match="not those of the LigandMPNN network that it looks like"):
        ligandmpnn(structure=structure, checkpoint=tmp_path / "broken.pt")
    torch.save({"model_state_dict": {"W_torsions.weight": torch.zeros(1)}}, tmp_path / "sc.pt")
    with pytest.raises(ValueError, match="places side chains on a given sequence"):
        ligandmpnn(structure=structure, checkpoint=tmp_path / "sc.pt")


def test_designs_are_drawn_with_the_ligand_in_sight(tmp_path):
    structure = replace(with_ligand(16), design=torch.arange(16) < 8)
    path = saved(tmp_path, network(21), encoder(), atom_context_num=6)
    models = [
        sa.load_model(
            "ligandmpnn", structure=structure, checkpoint=path, fix="A2", context_atoms=seen
        )
        for seen in (True, False)
    ]
    x = PROTEIN.encode([structure.wild_type])[None]
    x[..., ::3] = PROTEIN.mask
    laws = [model.process.posterior(x, 0.5).mean for model in models]
    assert (laws[0] - laws[1]).abs().max() > 1e-3
    # the process is ProteinMPNN's, on another encoding
    backbone = load_checkpoint(path).encode(structure)
    assert torch.equal(models[0].process.network.backbone.h, backbone.h)
    method = sa.load_method("smc", alpha=0.5)
    samples = method(
        models[0].process,
        sa.load_reward("charge"),
        (1, 4),
        rng=Streams(0, (0,)),
        space=models[0].space,
    )
    for sequence in samples.designs.sequences[0]:
        assert sequence[8:] == structure.sequence[8:]
        assert sequence[1] == structure.sequence[1]


def test_the_score_of_a_sequence_sees_the_ligand_too(tmp_path):
    path = saved(tmp_path, network(21), encoder(), atom_context_num=6)
    structure = with_ligand(16)
    designs = Designs.of([structure.sequence], PROTEIN)
    scores = [
        sa.load_reward("mpnn-score", structure=s, checkpoint=path)(designs)
        for s in (structure, replace(structure, context_atoms=ContextAtoms()))
    ]
    assert abs(float(scores[0]) - float(scores[1])) > 1e-3
    told = saved(tmp_path, network(21), LabelEncoder(16), name="global_label.pt")
    low, high = (
        sa.load_reward("mpnn-score", structure=structure, checkpoint=told, label=label)
        for label in ("soluble", "transmembrane")
    )
    assert abs(float(low(designs)) - float(high(designs))) > 1e-3


def test_a_membrane_network_is_told_where_it_is(tmp_path):
    torch.manual_seed(0)
    told, structure = LabelEncoder(16), backbone_of(30)
    path = saved(tmp_path, network(21), told, name="global_label.pt")
    how = {"registered": "proteinmpnn", "structure": structure}
    laws = [
        published(**how, checkpoint=path, label=label).network.backbone.h
        for label in ("soluble", "transmembrane")
    ]
    assert (laws[0] - laws[1]).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"label is missing: .* Give soluble or transmembrane"):
        published(**how, checkpoint=path)
    with pytest.raises(ValueError, match="Give soluble or transmembrane"):
        published(**how, checkpoint=path, label={"buried": "A3"})
    each = saved(tmp_path, network(21), told, name="per_residue_label.pt")
    with pytest.raises(ValueError, match=r"'transmembrane': .* Give \{buried: RESIDUES"):
        published(**how, checkpoint=each, label="transmembrane")
    # label 0 everywhere is the same in both files
    few = published(**how, checkpoint=each, label={"buried": "A3"}).network.backbone.h
    assert (few - laws[0]).abs().max() > 0.01
    plain = saved(tmp_path, network(21), name="plain.pt")
    with pytest.raises(ValueError, match="only the membrane networks know labels"):
        published(**how, checkpoint=plain, label="soluble")


def test_labels_are_those_of_the_residues_named():
    structure = backbone_of(30, chains=2)
    found = labels(structure, {"buried": "A2-4, B20", "interface": "A6"})
    assert found.nonzero()[:, 0].tolist() == [1, 2, 3, 5, 19]
    assert found[[1, 2, 3, 5, 19]].tolist() == [2, 2, 2, 1, 2]
    assert labels(structure, "soluble").sum() == 0
    assert labels(structure, "transmembrane").sum() == 30
    with pytest.raises(ValueError, match="A3 is both buried and interface"):
        labels(structure, {"buried": "A2-4", "interface": "A3"})
    with pytest.raises(ValueError, match="A99"):
        labels(structure, {"buried": "A99"})
