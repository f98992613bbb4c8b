"""Structures: every oddity ends in the right residues or in one clear sentence."""

from __future__ import annotations

import gzip
import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from commands import imported
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from seqalign.files.numbering import Numbering, ResidueError
from seqalign.files.structure import Structure, StructureError, demo_backbone, read_structure

FILES = Path(__file__).parent / "structures"


def read(name: str, **options: object) -> Structure:
    return read_structure(FILES / name, **options)


# the torture set ----------------------------------------------------------------------------------

A5 = "A1 A2 A3 A4 A5"
A3 = "A1 A2 A3"
# file, options, sequence, names of the residues
READABLE = [
    ("plain.pdb", {}, "MKVLA", A5),
    ("plain.cif", {}, "MKVLA", A5),
    ("plain.bcif", {}, "MKVLA", A5),
    ("packed.pdb.gz", {}, "MKVLA", A5),
    ("packed.bcif.gz", {}, "MKVLA", A5),
    ("crlf.pdb", {}, "MKVLA", A5),
    ("carriage_returns.pdb", {}, "MKVLA", A5),
    ("bom.pdb", {}, "MKV", A3),
    ("latin1.pdb", {}, "MKV", A3),
    ("quoted.cif", {}, "MKV", A3),
    ("anisou.pdb", {}, "MKV", A3),
    ("insertion_codes.pdb", {}, "GSTK", "A82 A82A A82B A83"),
    ("insertion_codes.pdb", {"numbering": "index"}, "GSTK", "A1 A2 A3 A4"),
    ("insertion_codes.cif", {}, "MKV", "A1 A1A A2"),
    ("insertion_codes.cif", {"numbering": "label"}, "MKV", "A1 A2 A3"),
    ("negative_numbers.pdb", {}, "MKVLA", "A-2 A-1 A0 A1 A2"),
    ("wrapped_numbers.pdb", {}, "MKVLA", "A9998 A9999 A0 A1 A2"),
    ("numbers_jump.pdb", {}, "MKVLAG", "A1 A2 A3 A36 A37 A38"),
    ("missing_residues.pdb", {}, "MKVLAG", "A1 A2 A3 A7 A8 A9"),
    ("missing_residues.pdb", {"numbering": "index"}, "MKVLAG", "A1 A2 A3 A4 A5 A6"),
    ("gap_without_numbers.pdb", {}, "MKVLAG", "A1 A2 A3 A4 A5 A6"),
    ("missing_atoms.pdb", {}, "GSKLATV", "A1 A2 A3 A4 A5 A6 A7"),
    ("altloc_occupancy.pdb", {}, "GSK", A3),
    ("altloc_tie.pdb", {}, "GSK", A3),
    ("altloc_partial.pdb", {}, "GSK", A3),
    ("altloc_blocks.pdb", {}, "GSK", A3),
    ("microheterogeneity.pdb", {}, "GSE", "A21 A22 A23"),
    ("selenomethionine.pdb", {}, "GMKM", "A1 A2 A3 A4"),
    ("selenomethionine.pdb", {"map": {"MSE": "L"}}, "GLKL", "A1 A2 A3 A4"),
    ("modified.pdb", {}, "SPYG", "A1 A2 A3 A4"),
    ("modified.pdb", {"map": {"SEP": "X"}}, "XPYG", "A1 A2 A3 A4"),
    ("modified_in_chain.cif", {}, "MKM", A3),
    ("selenocysteine.pdb", {"map": {"SEC": "C"}}, "GCK", A3),
    ("unknown.pdb", {"map": {"UNK": "A", "ZZZ": "X"}}, "GAKXLMKV", f"{A5} B1 B2 B3"),
    ("unknown.pdb", {"ignore": ["UNK", "ZZZ"]}, "GKLMKV", "A1 A3 A5 B1 B2 B3"),
    ("unknown.pdb", {"chains": "B", "context": "A"}, "GXKXLMKV", f"{A5} B1 B2 B3"),
    ("force_field.pdb", {}, "HHCESD", f"{A5} A6"),
    ("hse_undecided.pdb", {}, "GH", "A1 A2"),
    ("hse_undecided.pdb", {"map": {"HSE": "S"}}, "GS", "A1 A2"),
    ("oxygen_names.pdb", {}, "MKV", A3),
    ("caps.pdb", {}, "MKV", A3),
    ("models.pdb", {}, "MKV", A3),
    ("models.pdb", {"model": 2}, "MKV", A3),
    ("models.cif", {"model": 2}, "MKV", A3),
    ("model_numbers.pdb", {"model": 2}, "MKV", A3),
    ("frames.pdb", {"model": 2}, "MKV", A3),
    ("ter_between_models.pdb", {}, "MKM", A3),
    ("ter_between_models.pdb", {"model": 2}, "MK", "A1 A2"),
    ("two_chains.pdb", {}, "MKVLAG", f"{A3} B101 B102 B103"),
    ("two_chains.pdb", {"numbering": "index"}, "MKVLAG", f"{A3} B1 B2 B3"),
    ("two_chains.pdb", {"chains": ["B"]}, "LAG", "B101 B102 B103"),
    ("split_chain.pdb", {}, "MKVSTLAG", f"{A5} B1 B2 B3"),
    ("lower_case.pdb", {}, "MKVAG", "a1 a2 a3 A1 A2"),
    ("lower_case.pdb", {"chains": "a"}, "MKV", "a1 a2 a3"),
    ("blank_chain.pdb", {}, "MKVLA", "1 2 3 4 5"),
    ("digit_chains.pdb", {}, "MKVLAG", "1:1 1:2 1:3 2:1 2:2 2:3"),
    ("digit_chains.cif", {}, "MKVLAG", "1:1 1:2 1:3 A1:1 A1:2 A1:3"),
    ("digit_chains.cif", {"chains": "A1"}, "LAG", "A1:1 A1:2 A1:3"),
    ("label_numbers.cif", {}, "MKVLA", "AA11 AA12 AA13 AB1 AB2"),
    ("label_numbers.bcif", {}, "MKVLA", "AA11 AA12 AA13 AB1 AB2"),
    ("label_numbers.cif", {"numbering": "label"}, "MKVLA", "C3 C4 C5 D1 D2"),
    ("label_numbers.bcif", {"numbering": "label"}, "MKVLA", "C3 C4 C5 D1 D2"),
    ("label_numbers.cif", {"numbering": "label", "chains": "D"}, "LA", "D1 D2"),
    ("no_author.cif", {"numbering": "label"}, "MKV", A3),
    ("water_ion_ligand.pdb", {}, "MKV", A3),
    ("protein_and_nucleic.pdb", {}, "MKV", A3),
    ("no_ter.pdb", {}, "MKVM", "A1 A2 A3 A4"),
    ("many_ter.pdb", {}, "MKML", "A1 A2 A3 A4"),
    ("ca_only.pdb", {"require": ["CA"]}, "MKVLA", A5),
    ("no_oxygen.pdb", {"require": ["N", "CA", "C"]}, "MKVLA", A5),
    ("no_oxygen.pdb", {}, "MKVLA", A5),
]
# file, options, what the sentence says
REFUSED = [
    ("unknown.pdb", {"chains": "A"}, "UNK A2, ZZZ A4. Say which letter each is read as"),
    ("selenocysteine.pdb", {}, "input.map: {SEC: A}"),
    ("long_name.cif", {}, "seqalign new --map A1LU6=A"),
    ("plain.pdb", {"map": {"UNK": "B"}}, "map reads UNK as 'B'; allowed are the letters"),
    ("duplicate_residue.pdb", {}, "residue A2 is both LYS and LEU (line 14). Give copies"),
    ("duplicate_atom.pdb", {}, "residue A2 has CA twice (line 7 and line 10)"),
    ("segments.pdb", {}, "The chain column is empty (segment names do not count)"),
    ("hybrid36.pdb", {}, "columns 23-26 is 'A000', not a whole number (hybrid-36 is not read"),
    ("short_line.pdb", {}, "line 7 cannot be read"),
    ("shifted_columns.pdb", {}, "line 2 cannot be read"),
    ("underscore.pdb", {}, "line 4 cannot be read"),
    ("nanometers.pdb", {}, "N and CA of residue A1 are 0.15 apart"),
    ("zeros.pdb", {}, "N and CA of residue A1 are 0.00 apart"),
    ("split_molecule.pdb", {}, "CA and C of residue A2 are 105.29 apart"),
    ("huge.cif", {}, "residue A2 lies 1e+30 Å from the origin"),
    ("nan.cif", {}, "atom 5 has the coordinates nan -0.192 1.644"),
    ("no_coordinate.cif", {}, "atom 5 has the coordinates ? -0.192 1.644"),
    ("word_for_number.cif", {}, "atom 5 has the auth_seq_id 'five', not a whole number"),
    ("no_x.cif", {}, "has no _atom_site.Cartn_x"),
    ("no_author.cif", {}, "read it with numbering='label'"),
    ("cut_off.cif", {}, "the table is cut off or damaged"),
    ("open_quote.cif", {}, "cannot be read as mmCIF"),
    ("two_tables.cif", {}, "has 2 tables of atoms"),
    ("ca_only.pdb", {}, "of these atoms it has CA."),
    ("no_ca.pdb", {}, "of these atoms it has none. Complete the backbone"),
    ("nucleic.pdb", {}, "has no amino acids with a backbone; the residues it has are DA"),
    ("protein_and_nucleic.pdb", {"chains": "B"}, "has no chain 'B' with amino acids; there is A"),
    ("empty.pdb", {}, "is empty"),
    ("blank.cif", {}, "is empty"),
    ("page.pdb", {}, "has no ATOM or HETATM line"),
    ("binary.pdb", {}, "holds binary data, not text"),
    ("binary.cif", {}, "holds binary data, not text"),
    ("plain.txt", {}, "unknown extension; give one of .pdb, .ent, .cif, .mmcif, .bcif"),
    ("absent.pdb", {}, "cannot be opened (No such file or directory)"),
    ("pdb_inside.cif", {}, "is PDB, not mmCIF; name it .pdb"),
    ("cif_inside.pdb", {}, "is mmCIF, not PDB; name it .cif"),
    ("text.bcif", {}, "is not BinaryCIF"),
    ("packed_without_name.pdb", {}, "is compressed; name it .gz"),
    ("not_packed.pdb.gz", {}, "is not compressed; drop the .gz"),
    ("cut_off.pdb.gz", {}, "cannot be unpacked"),
    ("cut_off.bcif", {}, "cannot be read as BinaryCIF"),
    ("endless_run.bcif", {}, "a run is negative or too long"),
    ("no_atoms.bcif", {}, "has 0 tables of atoms"),
    ("models.pdb", {"model": 3}, "has 2 models; there is no model 3"),
    ("plain.pdb", {"model": 0}, "has 1 model; there is no model 0"),
    ("plain.pdb", {"numbering": "label"}, "has author numbers only, as every PDB file"),
    ("plain.pdb", {"numbering": "auth"}, "must be author, label or index, not 'auth'"),
    ("plain.pdb", {"require": ["CB"]}, "name some of N, CA, C, O"),
    ("two_chains.pdb", {"chains": "C"}, "has no chain 'C' with amino acids; there is A, B."),
    ("two_chains.pdb", {"chains": "b"}, "Did you mean B?"),
    ("two_chains.pdb", {"chains": "A", "context": "A,B"}, "chain A is both designed and context"),
    ("two_chains.pdb", {"context": "A B"}, "no chain is left to be designed"),
]


@pytest.mark.parametrize(("name", "options", "sequence", "names"), READABLE)
def test_the_torture_set_is_read(name, options, sequence, names):
    structure = read(name, **options)
    assert structure.sequence == sequence
    assert [structure.numbering.name(i + 1) for i in range(len(structure))] == names.split()
    assert structure.coords.shape == (len(sequence), 4, 3)
    assert structure.name == name.split(".")[0]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_or_refused_in_one_sentence(name, options, message):
    with pytest.raises(StructureError) as caught:
        read(name, **options)
    said = str(caught.value)
    assert said.startswith(str(FILES / name))
    assert message in said
    assert said[-1] in ".?"
    assert "\n" not in said
    assert caught.value.__suppress_context__


def test_every_file_of_the_torture_set_is_in_a_table():
    assert {f.name for f in FILES.iterdir()} == (
        {row[0] for row in READABLE} | {row[0] for row in REFUSED}
    ) - {"absent.pdb"}


# rules, one by one --------------------------------------------------------------------------------


def test_the_likelier_location_counts_and_at_a_tie_the_first():
    plain = read("plain.pdb").coords
    torch.testing.assert_close(read("altloc_occupancy.pdb").coords[1], plain[1] + 0.25)
    assert torch.equal(read("altloc_tie.pdb").coords[1], plain[1])
    # who takes the first listed takes another one, and is told where
    (said,) = [s for s in read("altloc_occupancy.pdb").said if "alternate" in s]
    assert "not the first listed" in said
    assert not [s for s in read("altloc_tie.pdb").said if "alternate" in s]
    assert torch.equal(read("altloc_blocks.pdb").coords, plain[:3])
    assert torch.equal(read("altloc_partial.pdb").coords, plain[:3])


def test_known_residues_have_a_letter_and_all_atoms():
    structure = read("missing_atoms.pdb")
    assert structure.mask.tolist() == [True, False, True, False, True, False, True]
    assert structure.wild_type == "GKAV"
    assert structure.known_numbering.numbers == ("1", "3", "5", "7")
    assert structure.coords[1, 2].isnan().all()
    assert structure.coords[3, 3].isnan().all()
    unknown = read("unknown.pdb", map={"UNK": "A", "ZZZ": "X"})
    assert unknown.known.tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_breaks_and_residue_index_follow_geometry_first():
    cases = {
        "plain.pdb": ([0], [0, 1, 2, 3, 4]),
        "missing_residues.pdb": ([0, 3], [0, 1, 2, 6, 7, 8]),
        # not bonded, and the numbers know no gap
        "gap_without_numbers.pdb": ([0, 3], [0, 1, 2, 3, 4, 5]),
        # bonded, whatever the numbers say
        "numbers_jump.pdb": ([0], [0, 1, 2, 3, 4, 5]),
        "insertion_codes.pdb": ([0], [0, 1, 2, 3]),
        "wrapped_numbers.pdb": ([0], [0, 1, 2, 3, 4]),
        # C of the second is missing: CA to CA decides; of the last but one all four: the numbers do
        "missing_atoms.pdb": ([0], [0, 1, 2, 3, 4, 5, 6]),
        "two_chains.pdb": ([0, 3], [0, 1, 2, 103, 104, 105]),
    }
    for name, (breaks, index) in cases.items():
        structure = read(name)
        assert structure.breaks.nonzero()[:, 0].tolist() == breaks, name
        assert structure.residue_index.tolist() == index, name
    # names have no say in it
    assert read("missing_residues.pdb", numbering="index").residue_index.tolist() == [
        0, 1, 2, 6, 7, 8,
    ]  # fmt: skip
    bare = read("ca_only.pdb", require=("CA",))
    assert bare.breaks.tolist() == [True, False, False, False, False]


def test_context_chains_are_seen_and_not_designed():
    both = read("two_chains.pdb", chains="A", context="B")
    assert both.design.tolist() == [True] * 3 + [False] * 3
    assert both.chain_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert both == read("two_chains.pdb", context=["B"])
    assert both != read("two_chains.pdb")


def test_modified_residues_are_recorded():
    assert read("selenomethionine.pdb").modified == ((1, "MSE"), (3, "MSE"))
    assert read("force_field.pdb").modified[:2] == ((0, "HSD"), (1, "HSE"))
    assert read("plain.pdb").modified == ()


def test_virtual_cb_is_tetrahedral():
    structure = demo_backbone()
    cb = structure.virtual_cb
    n, ca, c, _ = structure.coords.unbind(1)
    torch.testing.assert_close(
        (cb - ca).norm(dim=-1), torch.full((len(structure),), 1.53), atol=0.1, rtol=0
    )
    for other in (n, c):
        cosine = torch.nn.functional.cosine_similarity(cb - ca, other - ca)
        degrees = torch.rad2deg(cosine.arccos())
        assert ((degrees - 110).abs() < 6).all()
    # L amino acids: seen from H, CO-R-N runs clockwise
    side = (torch.linalg.cross(c - ca, cb - ca) * (n - ca)).sum(-1)
    assert (side > 0).all()


def test_a_structure_passes_through_and_fields_must_fit():
    structure = read("plain.pdb")
    assert read_structure(structure) is structure
    assert "A 5, known: 5" in repr(structure)
    assert hash(structure) == hash(read("plain.pdb"))
    for change, message in (
        ({"sequence": "MKVL"}, "coords must be"),
        ({"sequence": "MKVLB"}, "residue A5 has the letter 'B'"),
        ({"design": torch.ones(5)}, "design must be torch.bool"),
        ({"numbering": Numbering.plain(4)}, "5 residues and 4 names"),
        ({"require": ()}, "require"),
    ):
        with pytest.raises(StructureError, match=message):
            replace(structure, **change)


# laws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [row[:2] for row in READABLE])
def test_writing_and_reading_changes_nothing(name, options, tmp_path):
    structure = read(name, **options)
    if max(map(len, structure.numbering.chains)) > 1:
        with pytest.raises(StructureError, match="does not fit the columns"):
            structure.to_pdb()
        return
    path = tmp_path / f"{structure.name}.pdb"
    path.write_text(structure.to_pdb())
    if name == "missing_atoms.pdb":
        # a residue without any of the four has no line
        assert read_structure(path).sequence == structure.sequence.replace("T", "")
        return
    kept = {k: v for k, v in options.items() if k in ("chains", "context", "map", "require")}
    again = read_structure(path, **kept)
    if options.get("numbering", "author") != "author":
        # other names: what they said about gaps went with the author's numbers
        again = replace(again, residue_index=structure.residue_index)
    if name in ("force_field.pdb", "hse_undecided.pdb"):
        # which HSE it is only the side chain says, and none is written: the letter has a name too
        again = replace(again, modified=structure.modified)
    if structure.said:
        # what was placed by geometry is written with three digits
        torch.testing.assert_close(again.coords, structure.coords, atol=6e-4, rtol=0)
        again = replace(again, coords=structure.coords)
    assert again == structure


def test_the_three_formats_agree(tmp_path):
    pdb = read("plain.pdb")
    assert read("plain.cif") == pdb
    assert read("plain.bcif") == pdb
    assert replace(read("packed.pdb.gz"), name="plain") == pdb
    assert read("label_numbers.cif") == read("label_numbers.bcif")
    # biopython reads what is written here, and what it writes is read here
    from Bio.PDB.mmcifio import MMCIFIO
    from Bio.PDB.PDBParser import PDBParser

    for name in ("plain", "insertion_codes", "missing_residues", "two_chains"):
        source = read(f"{name}.pdb")
        (tmp_path / "x.pdb").write_text(source.to_pdb())
        writer = MMCIFIO()
        writer.set_structure(PDBParser(QUIET=True).get_structure("x", tmp_path / "x.pdb"))
        writer.save(str(tmp_path / f"{name}.cif"))
        assert read_structure(tmp_path / f"{name}.cif") == source


def test_every_extension_and_its_compressed_form_are_read(tmp_path):
    for source, kinds in (
        ("plain.pdb", "pdb ent PDB"),
        ("plain.cif", "cif mmcif"),
        ("plain.bcif", "bcif"),
    ):
        data = (FILES / source).read_bytes()
        for kind in kinds.split():
            (tmp_path / f"plain.{kind}").write_bytes(data)
            (tmp_path / f"plain.{kind}.gz").write_bytes(gzip.compress(data))
            assert read_structure(tmp_path / f"plain.{kind}") == read("plain.pdb")
            assert read_structure(str(tmp_path / f"plain.{kind}.gz")) == read("plain.pdb")


def test_nothing_is_said_but_what_is_raised(recwarn, capfd):
    for row in (*READABLE, *REFUSED):
        try:
            read(row[0], **row[1])
        except StructureError:
            continue
    assert not [w for w in recwarn if "Bio" in str(w.category)]
    assert capfd.readouterr() == ("", "")


def test_the_demo_backbone_is_whole():
    structure = demo_backbone()
    assert structure.wild_type == structure.sequence
    assert len(structure) == 74
    assert structure.breaks.sum() == 1
    assert structure.numbering.positions("A339-412") == tuple(range(1, 75))


def test_importing_the_package_does_not_import_parsers():
    assert imported("seqalign, seqalign.files.structure", ("Bio", "msgpack")) == []


# residue expressions ------------------------------------------------------------------------------

CHAINS = Numbering(
    tuple("A" * 8 + "B" * 3) + ("AA",) * 2,
    tuple("-3 10 11 82 82A 82B 83 90 5 6 120 1 2".split()),
)
DIGITS = Numbering(("1",) * 3 + ("A1",) * 2 + ("A-2",), ("39", "40", "41", "2", "3", "7"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ""),
        (" , ", ""),
        ("A10", "A10"),
        ("A-3", "A-3"),
        ("A82A", "A82A"),
        ("A10-83", "A10 A11 A82 A82A A82B A83"),
        ("A82-A82B", "A82 A82A A82B"),
        ("A-3-11", "A-3 A10 A11"),
        ("A10 - A11", "A10 A11"),
        ("A010", "A10"),
        ("A", "A-3 A10 A11 A82 A82A A82B A83 A90"),
        ("AA", "AA1 AA2"),
        ("AA1-2, B5", "B5 AA1 AA2"),
        ("not A", "B5 B6 B120 AA1 AA2"),
        ("B, not B6", "B5 B120"),
        ("NOT A, not AA1-2", "B5 B6 B120"),
        ("120", "B120"),
        ("5-6, 82B", "A82B B5 B6"),
        ("A:10, AA:", "A10 AA1 AA2"),
        (["A10", "B5-6"], "A10 B5 B6"),
        ([120, 10], "A10 B120"),
    ],
)
def test_expressions_name_residues(text, names):
    found = CHAINS.positions(text)
    assert [CHAINS.name(i) for i in found] == names.split()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A120", "'A120' is not in the structure: chain A has residues -3-90. Did you mean B120?"),
        ("A7", "no residue between A-3 and A10. Counted from 1, residue 7 is A83; did you mean"),
        ("A200", "The nearest is A90."),
        ("A82C", "There is A82, without the insertion code."),
        ("A50-90", "The file has no residue between A11 and A82."),
        ("AA7", "chain AA has residues 1-2. The nearest is AA2."),
        ("C3", "names chain 'C', which is not there; the chains are A, B, AA."),
        ("C", "there is no chain 'C'; the chains are A, B, AA."),
        ("a10", "Did you mean A?"),
        ("A83-10", "runs backward: in the file 10 stands before 83. Did you mean A10-83?"),
        ("A10-B6", "runs from chain A into chain B; write one range per chain, as A10-90, B5-6."),
        ("A10, not A", "leaves no residue"),
        ("not", "there is no chain 'not'"),
        ("A10;A11", "cannot read 'A10;A11'. Write residues as A12"),
        ("A1.5", "cannot read"),
        ("٣", "cannot read"),
        ("9" * 5000, "cannot read"),
    ],
)
def test_or_say_what_is_wrong(text, message):
    with pytest.raises(ResidueError) as caught:
        CHAINS.positions(text, "here")
    assert str(caught.value).startswith("here: ")
    assert message in str(caught.value)


def test_a_missing_number_with_insertion_codes_names_them():
    numbering = Numbering(("H",) * 3, ("52A", "52B", "53"))
    with pytest.raises(ResidueError, match="Did you mean H52A or H52B"):
        numbering.positions("H52")


def test_chains_with_digits_are_read_where_there_is_one_reading():
    assert DIGITS.positions("139") == (1,)
    assert DIGITS.positions("39-41") == (1, 2, 3)
    assert DIGITS.positions("1:39-40, A1:3, A-2:7") == (1, 2, 5, 6)
    assert DIGITS.positions("A1") == (4, 5)
    assert DIGITS.positions("A-2") == (6,)
    twice = Numbering(("1", "1", "11"), ("1", "11", "1"))
    with pytest.raises(ResidueError, match=r"can be read as 1:11 or 11:1; write"):
        twice.positions("111")
    assert twice.positions("1:11") == (2,)
    assert twice.positions("11:1") == (3,)


def test_plain_positions_take_any_letter():
    plain = Numbering.plain(8)
    for text, answer in (
        ("3", (3,)),
        ("1-3, 7", (1, 2, 3, 7)),
        ("A2, B4-B5, A6-7", (2, 4, 5, 6, 7)),
        ("not 2-7", (1, 8)),
        ([4, 2], (2, 4)),
    ):
        assert plain.positions(text) == answer
    for text, message in (
        ("0", "outside positions 1-8"),
        ("9", "outside positions 1-8"),
        ("5-3", "Did you mean 3-5"),
        ("x", "cannot read 'x'. Write residues as 12, A12, 1-5"),
    ):
        with pytest.raises(ResidueError, match=message):
            plain.positions(text)


@pytest.mark.parametrize(
    ("chains", "numbers", "message"),
    [
        (("A",), ("1", "2"), "1 chains and 2 numbers"),
        (("A", "A"), ("1", "1"), "positions 1 and 2 are both A1"),
        (("A",), ("1.5",), "numbered '1.5'"),
        (("A",), ("01",), "numbered '01'"),
        (("A,B",), ("1",), "rename it"),
    ],
)
def test_names_must_say_one_thing(chains, numbers, message):
    with pytest.raises(ResidueError, match=message):
        Numbering(chains, numbers)


CHAIN_NAMES = st.sampled_from(["A", "B", "a", "AA", "1", "11", "A1", "", "A-2", "not"])
NUMBERS = st.builds(
    lambda n, code: f"{n}{code}", st.integers(-12, 30), st.sampled_from(["", "", "A", "B"])
)


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.tuples(CHAIN_NAMES, NUMBERS), min_size=1, max_size=25, unique=True),
    data=st.data(),
)
def test_every_name_reads_back_and_ranges_are_what_lies_between(names, data):
    numbering = Numbering(tuple(c for c, _ in names), tuple(n for _, n in names))
    assert [numbering.positions(numbering.name(i + 1)) for i in range(len(names))] == [
        (i + 1,) for i in range(len(names))
    ]
    chain = data.draw(st.sampled_from(sorted({c for c, _ in names})))
    inside = [i for i, (c, _) in enumerate(names, 1) if c == chain]
    lo, hi = sorted(data.draw(st.tuples(st.sampled_from(inside), st.sampled_from(inside))))
    text = f"{chain}:{names[lo - 1][1]}-{names[hi - 1][1]}"
    between = tuple(i for i in inside if lo <= i <= hi)
    assert numbering.positions(text) == between
    rest = tuple(i for i in range(1, len(names) + 1) if i not in between)
    assume(rest)
    assert numbering.positions(f"not {text}") == rest


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(st.text(max_size=30), st.text(alphabet="AB1290-:, not\t", max_size=24)),
    which=st.sampled_from([CHAINS, DIGITS, Numbering.plain(9), Numbering((), ())]),
)
@example(text="A-2-", which=DIGITS)
@example(text="A" * 3000, which=CHAINS)
@example(text="-" * 300, which=CHAINS)
def test_any_text_is_read_or_refused(text, which):
    try:
        found = which.positions(text)
    except ResidueError:
        return
    assert list(found) == sorted(set(found))
    assert all(1 <= i <= len(which) for i in found)


# fuzzing ------------------------------------------------------------------------------------------


def damage(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return data with a few random injuries, by bytes, by words or by lines."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 12))):
        kind = rng.randrange(8)
        i = rng.randrange(len(data) + 1)
        j = min(len(data), i + rng.randrange(1, 40))
        if kind == 0:
            data = data[:i] + bytes([rng.randrange(256)]) + data[i + 1 :]
        elif kind == 1:
            data = data[:i] + data[j:]
        elif kind == 2:
            data = data[:i] + data[i:j] * rng.randrange(2, 4) + data[j:]
        elif kind == 3:
            data = data[: max(i, 1)]
        elif kind == 4:
            word = rng.choice(
                [b"-1", b"?", b".", b"nan", b"1e99", b" ", b"\n", b"\r", b"'", b";", b"loop_\n",
                 b"data_", b"TER", b"END\n", b"MODEL \n", b"HETATM", b"UNK", b"\xff", b"9" * 30]
            )  # fmt: skip
            data = data[:i] + word + (data[i:] if rng.random() < 0.5 else data[i + len(word) :])
        elif kind == 5:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            data = b"\n".join(lines)
        elif kind == 6:
            lines = data.split(b"\n")
            a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[a], lines[b] = lines[b], rng.choice((lines[a], b""))
            data = b"\n".join(lines)
        else:
            other = rng.choice(others)
            data = data[:i] + other[rng.randrange(len(other) + 1) :]
    return data


def fuzz(count: int, seed: int, folder: Path) -> int:
    """Read damaged files with and without options; return how many still could be read."""
    rng = random.Random(seed)
    sound = sorted({row[0] for row in READABLE})
    files = [f.name for f in sorted(FILES.iterdir()) if f.suffix != ".txt" and f.stat().st_size]
    sources = [(n.split(".", 1)[1], (FILES / n).read_bytes()) for n in (*files, *sound, *sound)]
    contents = [data for _, data in sources]
    options = [
        dict(zip(("numbering", "chains", "model"), row, strict=True))
        for row in product(("author", "author", "label", "index"), (None, None, "A"), (1, 1, 2))
    ]
    read_well = 0
    for n in range(count):
        kind, data = sources[n % len(sources)]
        path = folder / f"fuzzed.{kind}"
        if kind.endswith(".gz") and rng.random() < 0.5 and data[:2] == b"\x1f\x8b":
            try:
                data = gzip.compress(damage(gzip.decompress(data), rng, contents), 1)
            except EOFError:
                data = damage(data, rng, contents)
        else:
            data = damage(data, rng, contents)
        path.write_bytes(data)
        try:
            structure = read_structure(path, **rng.choice(options))
        except StructureError as error:
            said = str(error)
        else:
            said = ""
        assert not said or (said.startswith(str(path)) and len(said) < 700)
        if said:
            continue
        read_well += 1
        assert structure.coords[structure.known].isfinite().all()
        assert len(structure.breaks) == len(structure.residue_index) == len(structure)
        names = [structure.numbering.name(i + 1) for i in range(len(structure))]
        assert len(set(names)) == len(names)
    return read_well


def test_damaged_files_are_read_or_refused(tmp_path):
    assert fuzz(600, 0, tmp_path) > 40


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_or_refused(tmp_path):
    assert fuzz(10_000, 1, tmp_path) > 700


@pytest.mark.slow
def test_ten_thousand_damaged_expressions_are_read_or_refused():
    rng = random.Random(2)
    seeds = ["A10-83", "A82A", "not A, A-3-11", "1:39-40, A1:3", "A-2:7", "B5-6, AA", "120, 5"]
    refused = 0
    for _ in range(10_000):
        text = damage(rng.choice(seeds).encode(), rng, [s.encode() for s in seeds])
        for numbering in (CHAINS, DIGITS, Numbering.plain(9)):
            try:
                numbering.positions(text.decode("latin-1"))
            except ResidueError:
                refused += 1
    assert 0 < refused < 30_000
