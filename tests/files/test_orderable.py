"""The orderable sequence: every letter of a file, none of its own, whatever the file looks like."""

import io
import random
from importlib.resources import files
from pathlib import Path

import pytest

from seqalign.files.numbering import Numbering
from seqalign.files.orderable import Orderable
from seqalign.files.remarks import remarks
from seqalign.files.residues import LETTERS
from seqalign.files.structure import Structure, StructureError, read_structure
from seqalign.files.unresolved import unresolved

CASES = Path(__file__).parent / "cases"
SUMO = files("seqalign").joinpath("data", "3a4r.pdb").read_text().splitlines()
BACKBONE = ("N", "CA", "C", "O", "CB")


def read(name, **options):
    return read_structure(CASES / f"{name}.pdb", **options)


def chains(structure, ties=()):
    """The orderable chains of the letters a structure came with, all of them open."""
    designed = structure.design[structure.known].tolist()
    pairs = zip(structure.wild_type, designed, strict=True)
    base = "".join("_" if may else a for a, may in pairs)
    order = Orderable.of(base, structure.known_numbering, structure, ties)
    assert order.letters(order.text(structure.wild_type)) == structure.wild_type
    return order, order.chains(structure.wild_type)


def pdb(path, *parts, before=(), after=()):
    """Cut pieces of 3A4R: (chain, first, last, the number's columns, or None to leave out, Å)."""
    lines = [*before]
    for chain, first, last, number, shift in parts:
        for line in SUMO:
            if line.startswith("ATOM") and first <= (n := int(line[22:26])) <= last:
                named = number(n)
                if named is not None:
                    x = float(line[30:38]) + shift
                    lines.append(f"{line[:21]}{chain}{named:5}   {x:8.3f}{line[38:]}")
        lines.append("TER")
    path.write_text("\n".join([*lines, *after, "END", ""]))
    return path


def plain(n):
    return f"{n:4d} "


def letters(first, last):
    """The letters of 3A4R from one number to another."""
    from Bio.Data.PDBData import protein_letters_3to1

    seen = {int(x[22:26]): x[17:20] for x in SUMO if x.startswith("ATOM")}
    return "".join(protein_letters_3to1[seen[n]] for n in range(first, last + 1) if n in seen)


# inputs that went wrong once ----------------------------------------------------------------------


def test_a_jump_in_the_numbers_of_a_whole_chain_is_no_gap():
    _, found = chains(read("jump"))
    assert found == {"A": "AFSSEQLARLKREFNE"}


def test_a_break_in_space_is_x_until_the_file_says_the_letters():
    structure = read("gap")
    order, found = chains(structure)
    assert found == {"A": "AFSSEQLARXXXEFNENRYLTE"}
    assert order.unknown() == {"A": ["3 residues after A9"]}
    assert any("broken between A9 and A13" in text for text in remarks(structure))
    for fill in ("gaps", "seqres"):
        filled = read("gap", fill=fill)
        order, found = chains(filled)
        assert found == {"A": "AFSSEQLARLKREFNENRYLTE"}
        assert order.unknown() == {}
        assert any("LKR after A9" in text for text in remarks(filled))
        # no position is added: what has no atoms is not designed
        assert filled.wild_type == structure.wild_type


def test_incomplete_residues_keep_their_letters():
    structure = read("atoms")
    assert chains(structure)[1] == {"A": "AFSSEQLARLKREFNE"}
    assert len(structure.known) == 14
    assert any("A A1 (no N), A A8 (no O)" in text for text in remarks(structure))


def test_context_chains_are_never_ordered_and_copies_once():
    assert chains(read("dimer", chains="A", context="B"))[1] == {"A": "AFSSEQLARLKREFNE"}
    both = read("dimer")
    assert chains(both)[1] == dict.fromkeys("AB", "AFSSEQLARLKREFNE")
    order, found = chains(both, [(i, i + 16) for i in range(1, 17)])
    assert found == {"A=B": "AFSSEQLARLKREFNE"}
    assert order.mutated("W" + both.wild_type[1:], both.wild_type) == "A1W"
    # the copy is read with the chain that stands for it
    assert order.letters("W" * 16) == "W" * 32
    # one letter that is not tied makes two genes
    assert len(chains(both, [(i, i + 16) for i in range(1, 16)])[1]) == 2


def test_copies_lend_each_other_letters_and_numbers(tmp_path):
    """What one copy of a chain lacks the other has: the gene holds it, with its number."""
    missing = {350, 351}
    path = pdb(
        tmp_path / "x.pdb",
        ("A", 340, 356, lambda n: None if n in missing else plain(n), 0),
        ("B", 340, 356, plain, 60),
    )
    structure = read_structure(path)
    names = structure.known_numbering
    at = {n: i for i, n in enumerate(zip(names.chains, names.numbers, strict=True), 1)}
    ties = [(at["A", n], i) for (c, n), i in at.items() if c == "B" and ("A", n) in at]
    order, found = chains(structure, ties)
    assert found == {"A=B": letters(340, 356)}
    wild = structure.wild_type
    k = at["B", "350"] - 1
    assert order.mutations(f"{wild[:k]}W{wild[k + 1 :]}", wild) == [f"{wild[k]}350W"]


def test_a_mutation_names_its_chain_where_another_is_seen():
    for chosen in ({"chains": "A", "context": "B"}, {}):
        structure = read("dimer", **chosen)
        order, _ = chains(structure)
        assert order.mutated("W" + structure.wild_type[1:], structure.wild_type) == "A:A1W"


def test_a_letter_that_differs_from_the_files_own_sequence_is_named(tmp_path):
    lines = (CASES / "gap.pdb").read_text().replace("SER SER GLU", "SER TRP GLU", 1)
    (tmp_path / "x.pdb").write_text(lines)
    with pytest.raises(StructureError, match="A4 is S by its atoms and W in it"):
        read_structure(tmp_path / "x.pdb", fill="seqres")


def test_a_name_to_map_that_is_nowhere_is_said():
    said = remarks(read("dimer", map={"FOO": "A"}, ignore=["BAR"]))
    assert "map: no residue of the file is called FOO." in said
    assert "ignore: no residue of the file is called BAR." in said


def test_names_of_residues_are_read_as_force_fields_mean_them():
    assert chains(read("protonation"))[1] == {"A": "AFCHHQEAHLKDCFNE"}


@pytest.mark.parametrize("name", ["noncanonical_chain", "unknown_chain"])
def test_an_odd_chain_is_kept_beside_the_others(name):
    structure = read(name)
    assert chains(structure)[1] == {"A": "AFSSEQLARLKREFNE"}
    assert any("is kept as it is and not designed" in text for text in remarks(structure))
    assert chains(read(name, chains="A"))[1] == {"A": "AFSSEQLARLKREFNE"}


def test_an_odd_residue_of_the_only_chain_has_two_cures(tmp_path):
    lines = (CASES / "dimer.pdb").read_text().splitlines()
    odd = [x for x in lines if x[21:22] == "A"]
    odd = [f"{x[:17]}ZZZ{x[20:]}" if int(x[22:26]) == 8 else x for x in odd]
    (tmp_path / "x.pdb").write_text("\n".join(odd))
    with pytest.raises(StructureError, match=r"input\.map: \{ZZZ: A\}.*input\.ignore: \[ZZZ\]"):
        read_structure(tmp_path / "x.pdb")
    mapped = read_structure(tmp_path / "x.pdb", map={"ZZZ": "G"})
    assert chains(mapped)[1] == {"A": "AFSSEQLGRLKREFNE"}
    kept = read_structure(tmp_path / "x.pdb", map={"ZZZ": "X"})
    order, found = chains(kept)
    assert found == {"A": "AFSSEQLXRLKREFNE"}
    assert order.unknown() == {"A": ["1 residue at A8"]}
    # what is left out leaves a hole, and the hole is seen
    left = read_structure(tmp_path / "x.pdb", ignore=["ZZZ"])
    assert chains(left)[1] == {"A": "AFSSEQLXRLKREFNE"}


def test_what_stands_beside_a_chain_is_named_with_the_residues_near_it():
    said = remarks(read("ligand"))
    zinc = next(text for text in said if text.startswith("ZN A101 is not seen"))
    assert "within 5 Å: A4, A7-9, A11." in zinc
    assert zinc.endswith('To keep them: fix: "near ZN"')
    assert "NAG A102 is not seen; no designed residue is within 5 Å." in said


def test_nothing_beside_a_chain_is_lost_by_alternate_locations_or_labels(tmp_path):
    place = [float(SUMO[10][i : i + 8]) for i in (30, 38, 46)]
    line = "HETATM 9999  {:<3}{}GOL A 901    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           C"
    far = (place[0] + 50, place[1], place[2])
    rows = [line.format("C1", " ", *far)]
    rows += [line.format("C2", alt, place[0] + 2, *place[1:]) for alt in "AB"]
    path = pdb(tmp_path / "x.pdb", ("A", 340, 356, plain, 0), after=rows)
    (glycerol,) = read_structure(path).beside
    assert glycerol.kind == "ligand"
    assert len(glycerol.xyz) == 2
    ion = "HETATM 99999 ZN ZN Q . 901 1.0 2.0 3.0 A"
    text = mmcif(set(range(340, 350)), list(range(340, 350)))
    (tmp_path / "x.cif").write_text(text.rstrip("#\n") + f"\n{ion}\n#\n")
    for numbering in ("author", "label", "index"):
        found = read_structure(tmp_path / "x.cif", numbering=numbering).beside
        assert [(b.residue, b.number) for b in found] == [("ZN", "901")]


def test_a_chain_in_hundreds_of_pieces_is_filled():
    whole = "ACDEFGHIKL" * 140
    seen = whole[::2]
    found = unresolved(whole, seen, [True] * len(seen), [2] * len(seen))
    assert "".join(a + b for a, b in zip(["", *seen], found, strict=True)) == whole


def test_a_backbone_without_oxygens_gets_them_with_a_word():
    structure = read("no_oxygen")
    assert chains(structure)[1] == {"A": "AFSSEQLARLKREFNE"}
    assert any("has no backbone O" in text for text in remarks(structure))
    whole = read("dimer", chains="A")
    # where the next residue is known the geometry is; only the last has a free choice
    off = (structure.coords[:-1, 3] - whole.coords[:-1, 3]).norm(dim=-1)
    assert off.max() < 0.25


# kinds of structures ------------------------------------------------------------------------------


def kabat(n):
    """52, 52A, 52B, 53, ... with a jump where Kabat has one; the chain is whole."""
    k = n - 340
    return f"{50 + k:4d} " if k < 3 else f"  52{'ABC'[k - 3]}" if k < 6 else f"{53 + k:4d} "


def test_a_fab_with_insertion_codes_is_two_whole_chains(tmp_path):
    path = pdb(tmp_path / "x.pdb", ("H", 340, 360, kabat, 0), ("L", 361, 380, plain, 60))
    structure = read_structure(path)
    order, found = chains(structure)
    assert found == {"H": letters(340, 360), "L": letters(361, 380)}
    assert order.unknown() == {}
    changed = "W" + structure.wild_type[1:3] + "W" + structure.wild_type[4:]
    wild = structure.wild_type
    assert order.mutations(changed, wild) == [f"H:{wild[0]}50W", f"H:{wild[3]}52aW"]


def test_dna_beside_a_protein_is_no_part_of_it(tmp_path):
    atom = "ATOM   9999  P    DA D   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           P"
    near = [float(v) for v in (SUMO[10][30:38], SUMO[10][38:46], SUMO[10][46:54])]
    path = pdb(tmp_path / "x.pdb", ("A", 340, 360, plain, 0), after=[atom.format(*near)])
    structure = read_structure(path)
    assert chains(structure)[1] == {"A": letters(340, 360)}
    assert any(x.startswith("DNA or RNA chain D (1 nucleotides)") for x in remarks(structure))


def test_unresolved_loops_and_ends_come_from_the_file_if_asked_for(tmp_path):
    names = {x[22:26]: x[17:20] for x in SUMO if x.startswith("ATOM")}
    whole = [names[f"{n:4d}"] for n in range(340, 371)]
    seqres = [
        f"SEQRES {k // 13 + 1:3d} A {len(whole):4d}  {' '.join(whole[k : k + 13])}"
        for k in range(0, len(whole), 13)
    ]
    missing = {340, 341, 350, 351, 352, 360, 370}
    path = pdb(
        tmp_path / "x.pdb",
        ("A", 340, 370, lambda n: None if n in missing else plain(n), 0),
        before=seqres,
    )
    text = letters(340, 370)
    assert chains(read_structure(path, fill="seqres"))[1] == {"A": text}
    assert chains(read_structure(path, fill="gaps"))[1] == {"A": text[2:-1]}
    dashed = "".join("X" if n in missing else a for n, a in zip(range(340, 371), text, strict=True))
    assert chains(read_structure(path))[1] == {"A": dashed[2:-1]}
    # numbers that say nothing: the letters are found all the same, and without them one X a break
    flat = iter(range(1, 99))
    numbers = {n: f"{next(flat):4d} " for n in range(340, 371) if n not in missing}
    path = pdb(tmp_path / "y.pdb", ("A", 340, 370, numbers.get, 0), before=seqres)
    assert chains(read_structure(path, fill="gaps"))[1] == {"A": text[2:-1]}
    assert chains(read_structure(path))[1]["A"].count("X") == 2
    wrong = [seqres[0].replace(whole[2], "TRP", 1), *seqres[1:]]
    path = pdb(tmp_path / "z.pdb", ("A", 340, 370, plain, 0), before=wrong)
    with pytest.raises(StructureError, match="chain A does not fit the sequence"):
        read_structure(path, fill="seqres")
    path = pdb(tmp_path / "w.pdb", ("A", 340, 370, plain, 0))
    with pytest.raises(StructureError, match="no SEQRES lines"):
        read_structure(path, fill="seqres")


def mmcif(seen, whole, chain="A"):
    """The residues of 3A4R with these numbers as mmCIF, its chain named Z by label."""
    columns = "group_PDB id label_atom_id label_comp_id label_asym_id label_seq_id auth_seq_id"
    columns = [*columns.split(), *(f"Cartn_{x}" for x in "xyz"), "auth_asym_id"]
    rows = [
        f"ATOM {n} {x[12:16].strip()} {x[17:20]} Z {whole.index(int(x[22:26])) + 1} "
        f"{int(x[22:26])} {x[30:54]} {chain}"
        for n, x in enumerate(SUMO)
        if x.startswith("ATOM") and int(x[22:26]) in seen
    ]
    names = {int(x[22:26]): x[17:20] for x in SUMO if x.startswith("ATOM")}
    poly = [f"1 {n} {names[number]}" for n, number in enumerate(whole, 1)]
    tables = (
        ("_struct_asym", ["id", "entity_id"], ["Z 1"]),
        ("_entity_poly_seq", ["entity_id", "num", "mon_id"], poly),
        ("_atom_site", columns, rows),
    )
    lines = ["data_x"]
    for name, keys, some in tables:
        lines += ["loop_", *(f"{name}.{key}" for key in keys), *some, "#"]
    return "\n".join([*lines, ""])


def test_mmcif_says_which_letter_each_residue_is(tmp_path):
    whole = list(range(340, 360))
    seen = set(whole) - {340, 349, 350, 359}
    (tmp_path / "x.cif").write_text(mmcif(seen, whole))
    text = letters(340, 359)
    assert chains(read_structure(tmp_path / "x.cif", fill="seqres"))[1] == {"A": text}
    assert chains(read_structure(tmp_path / "x.cif", fill="gaps"))[1] == {"A": text[1:-1]}
    assert chains(read_structure(tmp_path / "x.cif"))[1] == {"A": f"{text[1:9]}XX{text[11:-1]}"}
    # by label the chain has another name, and the same letters
    named = read_structure(tmp_path / "x.cif", numbering="label", fill="seqres")
    assert chains(named)[1] == {"Z": text}


def test_without_a_structure_chains_are_those_of_the_numbers():
    order = Orderable.of("__M__", Numbering(("A", "A", "A", "B", "B"), ("1", "2", "3", "1", "2")))
    assert order.chains("MKMAV") == {"A": "MKM", "B": "AV"}
    assert order.letters("MKM/AV") == "MKMAV"
    for wrong in ("MKMAV", "MKM/AVV", "MKM"):
        with pytest.raises(ValueError, match="are A 3, B 2"):
            order.letters(wrong)


# an independent reader, on files nobody wrote -----------------------------------------------------


def independent(text, kind):
    """(chain, number, code) -> letter of every amino acid, by another library; None if it fails."""
    struc = pytest.importorskip("biotite.structure")
    from biotite.structure.io import pdb as pdb_format
    from biotite.structure.io import pdbx

    stream = io.StringIO(text)
    try:
        if kind == "pdb":
            atoms = pdb_format.PDBFile.read(stream).get_structure(model=1)
        else:
            atoms = pdbx.get_structure(pdbx.CIFFile.read(stream), model=1)
    except Exception:  # it may refuse what it likes
        return None
    starts = struc.get_residue_starts(atoms)
    one = struc.info.one_letter_code
    return {
        (atoms.chain_id[i], f"{atoms.res_id[i]}{atoms.ins_code[i].strip().lower()}"): (
            one(atoms.res_name[i]) or "X"
        )
        for i in starts
    }


def mutated(text, rng):
    """A file with some lines lost, doubled, swapped, renamed, renumbered, or bytes exchanged."""
    lines = text.splitlines()
    for _ in range(rng.randint(1, 3)):
        k = rng.randrange(len(lines))
        line = lines[k]
        choice = rng.randrange(8)
        if choice == 0:
            del lines[k : k + rng.choice([1, 1, 5, 17])]
        elif choice == 1:
            lines.insert(k, line)
        elif choice == 2:
            lines[k] = line[:-1] if rng.random() < 0.5 else line[: rng.randrange(len(line) + 1)]
        elif choice == 3 and line:
            at = rng.randrange(len(line))
            lines[k] = line[:at] + rng.choice("A 9-?.'\"#_Z") + line[at + 1 :]
        elif choice == 4:
            old, new = rng.choice(["ALA", "GLU", "LEU", "CYS"]), rng.choice(["MSE", "GLY", "UNK"])
            lines[k : k + 6] = [x.replace(old, new) for x in lines[k : k + 6]]
        elif choice == 5:
            lines[k : k + 5] = [x.replace(" CA ", " CB ") for x in lines[k : k + 5]]
        elif choice == 6:
            j = rng.randrange(len(lines))
            lines[k], lines[j] = lines[j], lines[k]
        else:
            lines[k : k + 5] = [x.replace(" A ", " B ") for x in lines[k : k + 5]]
        if not lines:
            return ""
    return "\n".join(lines) + "\n"


def sources():
    cut = [x for x in SUMO if x.startswith("ATOM") and int(x[22:26]) < 352]
    yield "pdb", "\n".join([*cut, "TER", "END"])
    for name in ("atoms", "dimer", "gap", "ligand", "noncanonical_chain"):
        yield "pdb", (CASES / f"{name}.pdb").read_text()
    yield "cif", (CASES / "markup_chain.cif").read_text().replace("<b>chain</b>", "A")
    yield "cif", mmcif(set(range(340, 352)) - {345, 346}, list(range(338 + 1, 354)))


def fuzzed(folder, count, seed):
    """Read mutated files: every letter is the independent reader's, or a sentence says no."""
    rng, table = random.Random(seed), list(sources())
    compared = 0
    for n in range(count):
        kind, text = table[n % len(table)]
        text = mutated(text, rng)
        path = folder / f"x.{kind}"
        path.write_text(text)
        fill = (
            rng.choice(["none", "gaps", "seqres"]) if "SEQRES" in text or "poly" in text else "none"
        )
        try:
            structure = read_structure(path, fill=fill)
        except StructureError:
            continue
        order, found = chains(structure)
        theirs = independent(text, kind)
        if theirs is None:
            continue
        compared += 1
        for record, seen in zip(order.records, found.values(), strict=True):
            for number, letter in zip(record.numbers, seen, strict=True):
                if number:
                    # the other library has no force-field names, and another first alternative
                    their = theirs.get((record.chains[0], number), "X")
                    assert their in (letter, "X"), (n, record.name, number, their, letter)
        # no residue that the other library calls standard is lost, but for those that are named as
        # standing beside the chain
        names = {c for r in order.records for c in r.chains}
        ours = {(r.chains[0], number) for r in order.records for number in r.numbers}
        named = {(b.chain, b.number.lower()) for b in structure.beside}
        lost = {k for k, a in theirs.items() if k[0] in names and a in LETTERS} - ours - named
        assert not lost, (n, lost, structure)
    return compared


def test_no_letter_of_a_mutated_file_is_lost_or_changed(tmp_path):
    assert fuzzed(tmp_path, 300, 1) > 100


@pytest.mark.slow
def test_nor_of_three_thousand(tmp_path):
    assert fuzzed(tmp_path, 3_000, 2) > 900


def test_reading_is_what_the_structure_prints(tmp_path):
    """Written as PDB and read again a structure orders the same chains."""
    for name in ("dimer", "jump", "gap"):
        structure = read(name)
        (tmp_path / "x.pdb").write_text(structure.to_pdb())
        again = read_structure(tmp_path / "x.pdb")
        assert isinstance(again, Structure)
        assert chains(again)[1] == chains(structure)[1]
