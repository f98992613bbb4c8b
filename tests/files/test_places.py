"""Words for places: by distance, by burial, by antibody numbers, in the one residue language."""

import copy
import pickle
import random
from dataclasses import replace

import pytest
import torch

from seqalign.core.sequence import PROTEIN
from seqalign.files.beside import Beside
from seqalign.files.numbering import Numbering, ResidueError
from seqalign.files.places import CDRS, CONTACT, Geometry
from seqalign.files.structure import JUMP, Structure, demo_backbone
from seqalign.space.positions import ConstraintError, Positions


def built(rng, sizes=(7, 5, 4), unknown=(), beside=(), names="ABC", numbers=None):
    """Return chains of residues at random places, 3 to 6 heavy atoms each, some incomplete."""
    n = sum(sizes)
    chains = tuple(c for c, size in zip(names, sizes, strict=True) for _ in range(size))
    numbers = numbers or tuple(str(i + 1) for size in sizes for i in range(size))
    torch.manual_seed(rng.randrange(2**31))
    center = torch.rand(n, 3) * 14
    coords = center[:, None] + torch.randn(n, 4, 3)
    extra = [coords[i, rng.randrange(4)] + torch.randn(3) for i in range(n) for _ in "12"]
    heavy = torch.cat([coords.flatten(0, 1), torch.stack(extra)])
    owner = torch.cat([torch.arange(n).repeat_interleave(4), torch.arange(n).repeat_interleave(2)])
    for i in unknown:
        coords[i, 3] = torch.nan
    heavy, owner = heavy[(whole := torch.isfinite(heavy).all(-1))], owner[whole]
    return Structure(
        name="built",
        sequence="".join(rng.choice("ACDEFGHIKL") for _ in range(n)),
        coords=coords,
        numbering=Numbering(chains, numbers),
        design=torch.ones(n, dtype=torch.bool),
        residue_index=torch.arange(n) + JUMP * torch.tensor([names.index(c) for c in chains]),
        beside=tuple(beside),
        heavy=heavy,
        heavy_of=owner,
    )


def ion(name, chain, number, *xyz):
    return Beside("ion", name, chain, number, 1, torch.tensor([list(xyz)], dtype=torch.float32))


def nearest(structure, points):
    """Return the least distance of each residue's heavy atoms to some points, in float64."""
    gap = torch.cdist(
        structure.heavy.double(),
        torch.as_tensor(points).double(),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    least = torch.full((len(structure),), torch.inf, dtype=torch.float64)
    return least.scatter_reduce(0, structure.heavy_of, gap.amin(1), "amin").tolist()


def of(structure, indices):
    keep = torch.isin(structure.heavy_of, torch.tensor(sorted(indices)))
    return structure.heavy[keep]


def members(structure, text):
    """Return the 0-based residues of an expression; none where it leaves nothing."""
    try:
        found = structure.known_numbering.positions(text)
    except ResidueError as error:
        if "leaves no residue" in str(error):
            return set()
        raise
    return {int(structure.known[i - 1]) for i in found}


@pytest.mark.parametrize("seed", range(12))
def test_distances_are_those_of_all_pairs_of_heavy_atoms(seed):
    rng = random.Random(seed)
    unknown = rng.sample(range(16), 2)
    zinc = [rng.uniform(0, 14) for _ in range(3)]
    s = built(rng, unknown=unknown, beside=[ion("ZN", "A", "101", *zinc)])
    known = set(s.known.tolist())
    assert not known & set(unknown)
    chain = {c: {i for i, x in enumerate(s.numbering.chains) if x == c} for c in "ABC"}

    for d in (2.5, 4, 6.25):
        gap = nearest(s, of(s, chain["B"]))
        around = {i for i in range(16) if gap[i] <= d} - chain["B"]
        assert members(s, f"within {d} of B") == around & known
        # a residue without a whole backbone is a place all the same
        for i in (unknown[0], 3):
            gap = nearest(s, of(s, {i}))
            around = {j for j in range(16) if gap[j] <= d} - {i}
            assert members(s, f"WITHIN {d} Å of {s.numbering.name(i + 1)}") == around & known
        gap = nearest(s, of(s, {1, 2, 3}))
        around = {j for j in range(16) if gap[j] <= d} - {1, 2, 3}
        assert members(s, f'within {d} of "A2-4"') == around & known
        gap = nearest(s, [zinc])
        assert members(s, f"within {d} of zn") == {j for j in range(16) if gap[j] <= d} & known
    gap = nearest(s, [zinc])
    around = {j for j in range(16) if gap[j] <= CONTACT} & known
    for text in ("near ZN", "Near ZN A101", "near A101", "near ion", f"within {CONTACT} of ZN"):
        assert members(s, text) == around

    a, b = nearest(s, of(s, chain["A"])), nearest(s, of(s, chain["B"]))
    both = {i for i in chain["A"] if b[i] <= CONTACT} | {i for i in chain["B"] if a[i] <= CONTACT}
    assert members(s, "interface A B") == both & known
    assert members(s, "interface B and A") == both & known
    assert members(s, "interface A B, not B") == both & known & chain["A"]
    rest = nearest(s, of(s, chain["B"] | chain["C"]))
    touching = {i for i in chain["A"] if rest[i] <= CONTACT}
    assert members(s, "interface A") & chain["A"] == touching & known
    pairs = ("interface A B", "interface A C", "interface B C")
    assert members(s, "interface A B C") == set().union(*(members(s, p) for p in pairs))
    assert members(s, "interface") == members(s, "interface A B C")


def test_nearness_is_mutual_and_grows_with_the_distance():
    s = built(random.Random(5))
    names = [s.numbering.name(i + 1) for i in range(16)]
    for d in (3, 5, 8):
        near = {(i, j) for i in range(16) for j in members(s, f"within {d} of {names[i]}")}
        assert near == {(j, i) for i, j in near}
        for i in range(16):
            assert members(s, f"within {d} of {names[i]}") <= members(
                s, f"within {d + 1} of {names[i]}"
            )


def test_nucleic_chains_and_chains_left_out_are_sides_of_an_interface():
    rng = random.Random(3)
    at = torch.tensor([[5.0, 5.0, 5.0]])
    dna = Beside("nucleic", "", "D", "", 9, at)
    left = Beside("chain", "", "P", "", 9, at + 4)
    s = built(rng, beside=[dna, left])
    near = {i for i, d in enumerate(nearest(s, at)) if d <= CONTACT}
    a = {i for i, c in enumerate(s.numbering.chains) if c == "A"}
    assert near - a
    assert near & a
    assert members(s, "near nucleic") == members(s, "near DNA") == members(s, "near D") == near
    assert members(s, "interface A D") == near & a
    assert members(s, "interface D") == near
    assert members(s, "near P") == {i for i, d in enumerate(nearest(s, at + 4)) if d <= CONTACT}
    assert members(s, "interface A") >= near & a


# layers -------------------------------------------------------------------------------------------


def geometry(structure) -> Geometry:
    return structure.known_numbering.places.geometry


def test_the_count_of_neighbors_is_its_formula():
    s = demo_backbone()
    counts = geometry(s).neighbors(range(len(s)))
    ca, cb = s.coords[:, 1].double(), s.virtual_cb.double()
    for i in range(len(s)):
        total = 0.0
        side = (cb[i] - ca[i]) / (cb[i] - ca[i]).norm()
        for j in range(len(s)):
            if j != i:
                to = ca[j] - cb[i]
                d = to.norm()
                cosine = side @ to / d
                total += (1 / (1 + torch.exp(d - 9))) * max(0, (cosine + 0.5) / 1.5) ** 2
        assert counts[i] == pytest.approx(float(total), rel=1e-9)


def test_layers_part_the_residues_and_do_not_turn_with_them():
    s = demo_backbone()
    layers = [set(s.known_numbering.positions(w)) for w in ("core", "Boundary", "SURFACE")]
    assert all(layers)
    assert sum(map(len, layers)) == len(set().union(*layers)) == len(s)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    turn = turn * torch.linalg.det(turn)
    moved = replace(s, coords=s.coords @ turn.T + 7, heavy=s.heavy @ turn.T + 7)
    assert [set(moved.known_numbering.positions(w)) for w in ("core", "boundary", "surface")] == (
        layers
    )
    # what a small domain buries avoids water
    some = s.known_numbering.positions("core 4")
    assert set(some) >= layers[0]
    assert sum(s.wild_type[i - 1] in "AVILMFWY" for i in some) >= 0.9 * len(some) > 10
    counts = geometry(s).neighbors(range(len(s)))
    assert some == tuple((counts >= 4).nonzero()[0] + 1)
    assert s.known_numbering.positions("surface 1.5") == tuple((counts <= 1.5).nonzero()[0] + 1)


def test_of_a_chain_means_that_chain_alone():
    s = demo_backbone()
    shift = torch.tensor([9.0, 0.0, 0.0])
    both = Structure(
        name="two",
        sequence=s.sequence * 2,
        coords=torch.cat([s.coords, s.coords + shift]),
        numbering=Numbering(("A",) * 74 + ("B",) * 74, s.numbering.numbers * 2),
        design=torch.ones(148, dtype=torch.bool),
        residue_index=torch.arange(148),
    )
    for word in ("core", "boundary", "surface"):
        alone = s.known_numbering.positions(word)
        assert both.known_numbering.positions(f"{word} of A") == alone
        assert both.known_numbering.positions(f"{word} of A B") == (
            both.known_numbering.positions(word)
        )
    # neighbors only add
    assert set(both.known_numbering.positions("core of A")) <= set(
        both.known_numbering.positions("core")
    )


# antibodies ---------------------------------------------------------------------------------------


def antibody(scheme, kind, chain="H"):
    """Return a chain numbered 1-120 with insertion codes, its marks C, W, C in place."""
    marks = {"imgt": (23, 41, 104), "light": (23, 35, 88), "heavy": (22, 36, 92)}[kind or scheme]
    numbers = [str(i) for i in range(1, 121)]
    for code in ("52A", "35B", "35A", "100A", "27A", "111A"):
        numbers.insert(numbers.index(code[:-1]) + 1, code)
    letters = ["G"] * len(numbers)
    for mark, letter in zip(marks, "CWC", strict=True):
        letters[numbers.index(str(mark))] = letter
    n = len(numbers)
    coords = torch.randn(n, 4, 3, generator=torch.Generator().manual_seed(2))
    design = torch.ones(n, dtype=torch.bool)
    names = Numbering((chain,) * n, tuple(numbers))
    return Structure("ab", "".join(letters), coords, names, design, torch.arange(n))


@pytest.mark.parametrize(
    ("scheme", "kind", "residues"),
    [
        ("imgt", "", "27-38, 56-65, 105-117"),
        ("kabat", "light", "24-34, 50-56, 89-97"),
        ("kabat", "heavy", "31-35B, 50-65, 95-102"),
        ("chothia", "light", "26-32, 50-52A, 91-96"),
        ("chothia", "heavy", "26-32, 52-56, 96-101"),
    ],
)
def test_loops_are_those_of_the_scheme_with_their_insertions(scheme, kind, residues):
    s = antibody(scheme, kind)
    names = s.known_numbering
    whole = names.positions(residues)
    loops = [names.positions(part) for part in residues.split(", ")]
    assert names.positions(f"cdr {scheme} {kind} H") == whole
    assert names.positions(f"CDR {scheme.upper()} {kind}") == whole
    for n, loop in enumerate(loops, 1):
        assert names.positions(f"cdr{n} {scheme} {kind} H") == loop
        assert names.positions(f"cdr {scheme} {kind} H{n}") == loop
    assert len(CDRS[scheme, kind]) == 3


def test_a_heavy_and_a_light_chain_are_told_by_their_names_alone():
    names = antibody("kabat", "heavy").known_numbering
    assert names.positions("cdr kabat") == names.positions("cdr kabat heavy H")
    other = antibody("kabat", "heavy", chain="B").known_numbering
    with pytest.raises(ResidueError, match="say which B is: cdr kabat heavy B"):
        other.positions("cdr kabat B")
    with pytest.raises(ResidueError, match=r"not numbered by IMGT.*C at 23.*here 23 is G"):
        names.positions("cdr imgt H")
    with pytest.raises(ResidueError, match="does not say by which scheme"):
        names.positions("cdr H")
    with pytest.raises(ResidueError, match="no chain 'Q'; there is H"):
        names.positions("cdr imgt Q")


# the language -------------------------------------------------------------------------------------

S = built(random.Random(1), beside=[ion("ZN", "A", "101", 5, 5, 5), ion("CA", "A", "102", 9, 9, 9)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("whithin 6 of B", "cannot read 'whithin 6 of B'. Did you mean 'within 6 of B'?"),
        ("cores", "cannot read 'cores'. Did you mean 'core'?"),
        ("surfaces of A", "Did you mean 'surface of A'?"),
        ("within B", "Write a distance in Å and from what: within 6 of B"),
        ("within 0 of B", "Write a distance"),
        ("within 6 B", "Write a distance"),
        ("within 6 of Q", "'Q' is no chain or residue and nothing beside them: the chains are A"),
        ("within 6 of b", "Did you mean B?"),
        ("within 6 of A99", "'A99' is not in the structure: chain A has residues 1-7"),
        ("near", "write near ZN or near ligand (5 Å)"),
        ("near MG", "beside the chains stands ZN A101, CA A102"),
        ("near ligand", "there is no ligand: the chains are A, B, C; beside the chains stands ZN"),
        ("interface A X", "there is no chain 'X'; there is A, B, C"),
        ("interface a B", "Did you mean A?"),
        ("interface A, B", "Write interface A B without the comma, or B: for the whole chain"),
        ("core A", "Write core, or core of A for the layers of chain A alone"),
        ("cdr imgt A", "chain A is not numbered by IMGT"),
        ("within 0.001 of B", "leaves no residue (no position is there)"),
    ],
)
def test_what_cannot_be_read_is_said(text, message):
    with pytest.raises(ResidueError) as error:
        S.known_numbering.positions(text, "design")
    assert str(error.value).startswith("design: ")
    assert message in str(error.value)


def test_without_a_structure_a_word_says_so():
    plain = replace(S.numbering)
    for text in ("within 6 of B", "not core", "interface A B", "A1, surface", "cdr imgt A"):
        for names in (plain, Numbering.plain(9)):
            with pytest.raises(ResidueError, match="there is no structure"):
                names.positions(text.replace("A1, ", ""))


def test_a_chain_may_have_the_name_of_a_word_or_of_an_ion():
    s = built(random.Random(4), sizes=(7, 5, 4), names=("core", "ZN", "A"))
    s = replace(s, beside=(ion("ZN", "A", "101", 5, 5, 5),))
    names = s.known_numbering
    assert names.positions("core:") == names.positions("core") == tuple(range(1, 8))
    assert names.positions("core layer, surface, boundary") == tuple(range(1, 17))
    assert names.positions("near ZN:") != names.positions("near ZN A101")
    with pytest.raises(
        ResidueError, match="as ZN A101 beside the chains; write ZN: for the residues"
    ):
        names.positions("near ZN")


def test_words_change_nothing_about_names():
    for text in ("A1-5", "B", "not A2", "A1, B2-4, not B3", "C:", "A:3", "A1-A5", ""):
        assert S.known_numbering.positions(text) == S.numbering.positions(text)
    for text in ("A99", "D", "A5-2", "A1-B2", "x y"):
        with pytest.raises(ResidueError) as one:
            S.known_numbering.positions(text)
        with pytest.raises(ResidueError) as two:
            S.numbering.positions(text)
        assert str(one.value) == str(two.value)


def test_places_do_not_count_in_equality_and_travel_with_what_is_taken():
    placed, plain = S.known_numbering, replace(S.known_numbering, places=None)
    assert placed == plain
    assert (hash(placed), repr(placed)) == (hash(plain), repr(plain))
    some = [3, 8, 9, 15, 2]
    taken = placed.take(some)
    for text in ("within 6 of B", "core", "near ZN", "interface A B", "not surface"):
        whole = set(placed.positions(text, absent=True)) if text != "core" else members(S, text)
        if text == "core":
            whole = {i + 1 for i in whole}
        expected = tuple(k for k, i in enumerate(some, 1) if i + 1 in whole)
        for again in (taken, pickle.loads(pickle.dumps(taken)), copy.deepcopy(taken)):
            try:
                assert again.positions(text) == expected
            except ResidueError:
                assert not expected


def test_names_are_the_shortest_text_that_reads_back():
    rng = random.Random(9)
    for names in (
        S.known_numbering,
        Numbering.plain(12),
        Numbering(("1",) * 4 + ("A1",) * 3, ("-3", "-2", "-1", "0", "2", "3", "3A")),
    ):
        for _ in range(60):
            some = sorted(rng.sample(range(1, len(names) + 1), rng.randint(1, len(names))))
            assert names.positions(names.names(some)) == tuple(some)
    assert S.known_numbering.names((1, 2, 3, 7, 8, 9)) == "A1-3, A7, B1-2"


def test_any_text_of_words_is_read_or_refused():
    rng = random.Random(2)
    names = S.known_numbering
    words = "within near interface surface core cdr imgt kabat heavy of 6 5. A B A3 A2-4 ZN".split()
    words += ["not", ",", "and", "Å", '"', ":", "A101", "ligand", "layer", "-", "H3", "é", "of A"]
    for _ in range(3000):
        text = " ".join(rng.choice(words) for _ in range(rng.randint(1, 6)))
        said = "here: "
        try:
            names.positions(text, "here")
        except ResidueError as error:
            said = str(error)
        assert said.startswith("here: ")


# residues that are no positions -------------------------------------------------------------------


def test_a_residue_without_a_whole_backbone_says_so():
    s = built(random.Random(6), unknown=(2, 8))
    names = s.known_numbering
    assert len(names) == 14
    said = (
        f"A3 has no whole backbone (O is missing): its letter {s.sequence[2]} is kept and it "
        f"cannot be designed"
    )
    for text in ("A3", "A1, A3"):
        with pytest.raises(ResidueError) as error:
            names.positions(text, "design")
        assert said in str(error.value)
    # ranges and chains mean those of them that are positions; leaving it out is no fault
    assert names.names(names.positions("A1-3")) == "A1-2"
    assert names.names(names.positions("A3-5")) == "A4-5"
    assert names.positions("not A3") == tuple(range(1, 15))
    assert names.positions("A, not A3") == names.positions("A")
    assert names.positions("A3", absent=True) == ()
    with pytest.raises(ResidueError, match="leaves no residue"):
        names.positions("A1, not A1", absent=True)


def test_a_bare_number_means_what_it_means_in_the_file():
    s = built(random.Random(6), unknown=(2, 8))
    # 3 is in every chain, though A3 cannot be designed
    with pytest.raises(ResidueError, match="is in several chains"):
        s.known_numbering.positions("3")


def test_fixing_what_is_fixed_anyhow_is_no_fault():
    s = built(random.Random(6), unknown=(2, 8))
    at = Positions(PROTEIN, 14, s.wild_type, numbering=s.known_numbering)
    everywhere = PROTEIN.mask_symbol * 14
    assert at.fixing("A3") == everywhere
    assert at.fixing("A3, A4") == at.fixing("A4") != everywhere
    for fix, design in (({"A3": "K"}, None), ("", "A3")):
        with pytest.raises(ConstraintError, match="it cannot be designed"):
            at.fixing(fix, design)
