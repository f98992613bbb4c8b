"""What stands beside the chains: which atoms are read, and the words for the residues near them."""

import random
import re
from importlib.resources import files

import pytest
import torch

from seqalign.files.elements import element_of, symbol_of
from seqalign.files.remarks import remarks, to_fix
from seqalign.files.structure import read_structure

SUMO = files("seqalign").joinpath("data", "3a4r.pdb").read_text().splitlines()
CHAIN = [x for x in SUMO if x.startswith("ATOM")]
NEAR = tuple(float(CHAIN[40][i : i + 8]) for i in (30, 38, 46))


def columns(name, symbol):
    """An atom's name in its four columns: an element of one letter begins in the second."""
    return f"{name:<4}" if len(symbol) == 2 or len(name) == 4 else f" {name:<3}"


def atom(name, symbol, residue, chain, number, xyz, *, altloc=" ", occupancy=1.0, said=None):
    said = symbol if said is None else said
    place = "".join(f"{v:8.3f}" for v in xyz)
    return (
        f"HETATM 9999 {columns(name, symbol)}{altloc}{residue:>3} {chain}{number:>4}    {place}"
        f"{occupancy:6.2f}  0.00          {said.upper():>2}"
    )


def read(folder, *lines, **options):
    path = folder / "x.pdb"
    path.write_text("\n".join([*CHAIN, "TER", *lines, "END", ""]))
    return read_structure(path, **options)


def names(structure):
    return list(structure.context_atoms.names)


# elements -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbol", "name", "residue", "element"),
    [
        ("ZN", "ZN  ", "ZN", "Zn"),
        ("Zn", "ZN", "ZN", "Zn"),
        (" c", "CA", "LIG", "C"),
        ("D", "D1", "LIG", "H"),
        ("", " CA ", "LIG", "C"),
        ("", "CA  ", "CA", "Ca"),
        ("", "FE  ", "HEM", "Fe"),
        ("  ", " P  ", "DA", "P"),
        ("12", " N1 ", "LIG", "N"),
        ("", "HG11", "LIG", "H"),
        ("", "1HB ", "LIG", "H"),
        ("", "HO5'", "DA", "H"),
        ("", "C1' ", "DA", "C"),
        ("", "CL12", "LIG", "Cl"),
        ("", "MO  ", "MOM", "Mo"),
        ("", "MG", "MG", "Mg"),
        ("", "CL1", "LIG", "Cl"),
        ("", "CB1", "LIG", "C"),
        ("X", "XX1", "LIG", "?"),
        ("", "", "", "?"),
    ],
)
def test_an_element_is_its_symbol_or_what_the_name_says(symbol, name, residue, element):
    assert symbol_of(element_of(symbol, name, residue)) == element


def test_every_symbol_is_read_and_printed():
    for z in range(1, 119):
        assert element_of(symbol_of(z).upper(), "") == z


def test_names_say_the_elements_that_columns_would(tmp_path):
    """Of a ligand whose element columns are blank the same atoms are read."""
    rows = [("C1", "C"), ("CL1", "Cl"), ("FE", "Fe"), ("O2'", "O"), ("H1", "H"), ("SE", "Se")]
    told, silent = (
        read(
            tmp_path,
            *(
                atom(name, symbol, "LIG", "A", 900, (i, 0, 0), said=said)
                for i, (name, symbol) in enumerate(rows)
                for said in [symbol if tell else ""]
            ),
        ).context_atoms
        for tell in (True, False)
    )
    assert told.element.tolist() == [6, 17, 26, 8, 34]
    assert silent.element.tolist() == told.element.tolist()
    assert silent.names == told.names


# which atoms are read -----------------------------------------------------------------------------


def test_water_hydrogen_and_what_is_not_there_is_not_read(tmp_path):
    found = read(
        tmp_path,
        atom("O", "O", "HOH", "A", 901, NEAR),
        atom("O", "O", "DOD", "A", 902, NEAR),
        atom("C1", "C", "LIG", "A", 903, NEAR),
        atom("H1", "H", "LIG", "A", 903, NEAR),
        atom("D1", "D", "LIG", "A", 903, NEAR),
        atom("C2", "C", "LIG", "A", 903, NEAR, occupancy=0.0),
        atom("X1", "X", "LIG", "A", 903, NEAR),
        atom("MO", "Mo", "MOO", "A", 904, NEAR),
        atom("ZN", "Zn", "ZN", "Q", 905, NEAR),
    )
    assert names(found) == ["A:LIG903:C1", "A:MOO904:MO", "Q:ZN905:ZN"]
    said = remarks(found, seen=True)
    assert any("LIG A903 is seen (1 of 3 atoms)" in text for text in said)
    assert any("the published script leaves molybdenum out" in text for text in said)
    gone = read(tmp_path, atom("C2", "C", "LIG", "A", 903, NEAR, occupancy=0.0))
    assert len(gone.context_atoms) == 0
    assert any("LIG A903 is not seen (its atoms have" in text for text in remarks(gone, seen=True))


def test_one_location_is_read_whatever_the_residues_are_called(tmp_path):
    found = read(
        tmp_path,
        atom("C1", "C", "EDO", "A", 901, NEAR, altloc="B"),
        atom("C1", "C", "GOL", "A", 901, NEAR, altloc="A"),
        atom("C2", "C", "GOL", "A", 901, NEAR),
        atom("C1", "C", "LIG", "A", 902, NEAR, altloc="B", occupancy=0.5),
        atom("C1", "C", "LIG", "A", 902, NEAR, altloc="C", occupancy=0.5),
    )
    # without an A the first there is
    assert names(found) == ["A:GOL901:C1", "A:GOL901:C2", "A:LIG902:C1"]
    assert [b.residue for b in found.beside] == ["GOL", "LIG"]


def test_nucleotides_are_read_modified_ones_too(tmp_path):
    found = read(
        tmp_path,
        *(
            atom(name, name[0], residue, "C", number, NEAR)
            for number, residue in enumerate(("DA", "5CM", "DG"), 1)
            for name in ("P", "C1'")
        ),
    )
    assert len(found.context_atoms) == 6
    assert {b.kind for b in found.beside} == {"nucleic", "ligand"}


def test_protein_that_is_left_out_is_not_read_as_a_ligand(tmp_path):
    other = [f"{x[:21]}B{x[22:30]}{float(x[30:38]) + 30:8.3f}{x[38:]}" for x in CHAIN]
    path = tmp_path / "x.pdb"
    path.write_text("\n".join([*CHAIN, "TER", *other, "TER", "END", ""]))
    found = read_structure(path, chains="A")
    assert [b.kind for b in found.beside] == ["chain"]
    assert len(found.context_atoms) == 0


def test_side_chains_that_no_letter_stands_for_are_read(tmp_path):
    number = int(CHAIN[0][22:26]) + 5
    lines = [f"{x[:17]}ZZZ{x[20:]}" if int(x[22:26]) == number else x for x in CHAIN]
    at = 1 + max(i for i, x in enumerate(lines) if x[17:20] == "ZZZ")
    beyond = [("SD", "S"), ("CE", "C"), ("HE1", "H"), ("OXT", "O")]
    lines[at:at] = [
        atom(name, symbol, "ZZZ", "A", number, NEAR).replace("HETATM", "ATOM  ")
        for name, symbol in beyond
    ]
    path = tmp_path / "x.pdb"
    path.write_text("\n".join([*lines, "TER", "END", ""]))
    found = read_structure(path, map={"ZZZ": "X"})
    # beyond CB, which the network places itself
    assert names(found) == [f"A:ZZZ{number}:SD", f"A:ZZZ{number}:CE"]
    # what is read as a letter can be designed: its side chain is nobody's
    assert names(read_structure(path, map={"ZZZ": "A"})) == []


def cif(rows):
    """The same atoms as mmCIF: (group, symbol, name, altloc, residue, chain, number, xyz, q)."""
    keys = (
        "group_PDB type_symbol label_atom_id label_alt_id label_comp_id label_asym_id "
        "auth_asym_id auth_seq_id label_seq_id Cartn_x Cartn_y Cartn_z occupancy"
    ).split()
    body = [
        f'{g} {s} "{n}" {a} {r} {c} {c} {k} {k if g == "ATOM" else "."} {x:.3f} {y:.3f} {z:.3f} {q}'
        for g, s, n, a, r, c, k, (x, y, z), q in rows
    ]
    return "\n".join(["data_x", "loop_", *(f"_atom_site.{k}" for k in keys), *body, "#", ""])


@pytest.mark.parametrize("seed", range(8))
def test_both_formats_give_the_atoms_that_the_rules_leave(tmp_path, seed):
    """Random atoms beside a chain, against the rules said once more."""
    rng = random.Random(seed)
    rows, expected = [], []
    for k in range(rng.randint(1, 25)):
        residue, chain = rng.choice(["LIG", "HOH", "DA", "ZN", "NAG"]), rng.choice("AQ")
        for j in range(1 if residue == "ZN" else rng.randint(1, 6)):
            symbol = "Zn" if residue == "ZN" else rng.choice(["C", "N", "O", "H", "Cl", "X"])
            name = symbol.upper() if residue == "ZN" else f"{symbol.upper()}{j}"
            altloc, q = rng.choice("..AB"), rng.choice([1.0, 0.5, 0.0])
            xyz = tuple(round(rng.uniform(-50, 50), 3) for _ in range(3))
            rows.append((symbol, name, altloc, residue, chain, 900 + k, xyz, q))
    for symbol, name, altloc, residue, chain, number, _, q in rows:
        here = {a for s, _, a, r, c, n, _, _ in rows if (c, n) == (chain, number) and s != "H"}
        first = min(here - {"."}, default="A")
        if residue != "HOH" and symbol not in "HX" and q > 0 and altloc in (".", first):
            expected.append(f"{chain}:{residue}{number}:{name}")
    lines = [
        atom(
            name, symbol, residue, chain, number, xyz, altloc=altloc.replace(".", " "), occupancy=q
        )
        for symbol, name, altloc, residue, chain, number, xyz, q in rows
    ]
    pdb = read(tmp_path, *lines).context_atoms
    own = [
        (
            "ATOM",
            x[76:78].strip(),
            x[12:16].strip(),
            ".",
            x[17:20],
            "A",
            int(x[22:26]),
            tuple(float(x[i : i + 8]) for i in (30, 38, 46)),
            1.0,
        )
        for x in CHAIN
    ]
    (tmp_path / "x.cif").write_text(cif([*own, *(("HETATM", *row) for row in rows)]))
    other = read_structure(tmp_path / "x.cif").context_atoms
    assert sorted(pdb.names) == sorted(expected)
    assert other.names == pdb.names
    assert torch.equal(other.xyz, pdb.xyz)
    assert torch.equal(other.element, pdb.element)


# words --------------------------------------------------------------------------------------------


def close(structure, wanted):
    """The designed positions with a heavy atom within 5 Å of atoms, by all distances."""
    gap = torch.cdist(structure.heavy.double(), wanted.double()).amin(1)
    near = set(structure.heavy_of[gap <= 5].tolist())
    known = enumerate(structure.known.tolist(), 1)
    return [i for i, r in known if r in near and bool(structure.design[r])]


@pytest.mark.parametrize("seed", range(6))
def test_a_ready_line_names_the_residues_near_and_no_others(tmp_path, seed):
    """Names that are numbers, chains or residues elsewhere, too: the words mean what is near."""
    rng = random.Random(seed)
    rows = []
    called = ["ZN", "345", "A", "B2", "GOL", "DA", "NAG", "350", "SER", "ION"]
    for k, residue in enumerate(rng.sample(called, 6)):
        line = rng.choice(CHAIN)
        center = [float(line[i : i + 8]) + rng.uniform(-5, 5) for i in (30, 38, 46)]
        chain = rng.choice("AQC")
        for copy in range(rng.randint(1, 2)):
            for j in range(rng.randint(1, 4)):
                xyz = [v + rng.uniform(-2, 2) + 9 * copy for v in center]
                rows.append(atom(f"C{j}", "C", residue, chain, 900 + 10 * k + copy, xyz))
    structure = read(tmp_path, *rows)
    numbering = structure.known_numbering
    said = remarks(structure, models=["seer"])
    every = set()
    assert structure.beside
    for thing in structure.beside:
        label = f"chain {thing.chain} (" if thing.kind == "nucleic" else f"{thing.residue} "
        place = "" if thing.kind == "nucleic" else f"{thing.chain}{thing.number}"
        (text,) = (t for t in said if label in t and place in t and "is not seen" in t)
        group = [
            b
            for b in structure.beside
            if b.kind == thing.kind
            and (b.chain if b.kind == "nucleic" else b.residue)
            == (thing.chain if b.kind == "nucleic" else thing.residue)
        ]
        near = close(structure, torch.cat([b.xyz for b in group]))
        every |= set(near)
        if not near:
            assert text.endswith("no designed residue is within 5 Å.")
            continue
        found = re.fullmatch(r'.*within 5 Å: (.*)\. To keep them: fix: "(.*)"', text)
        assert list(numbering.positions(found[1])) == near
        assert list(numbering.positions(found[2])) == near
    if every:
        assert list(numbering.positions(to_fix(structure))) == sorted(every)
    more = [t for t in said if t.startswith("To keep all")]
    if more:
        assert f"all {len(every)} residues" in more[0]
        assert f'fix: "{to_fix(structure)}"' in more[0]
    assert "Models that see ligands, ions, glycans and nucleic acids: seer." in said
    # a model that sees them says so, of all of them
    seen = remarks(structure, seen=True)
    assert not any("is not seen" in text for text in seen)
    assert sum("is seen (" in text for text in seen) == sum("is not seen" in t for t in said)


def test_without_anything_beside_nothing_is_said(tmp_path):
    structure = read(tmp_path)
    assert remarks(structure, models=["seer"]) == remarks(structure, seen=True) == []
    assert to_fix(structure) == ""
