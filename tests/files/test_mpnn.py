"""ProteinMPNN's files: option files against hand-written ones, FASTA round trips, no tracebacks."""

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seqalign.core.sequence import PROTEIN
from seqalign.files.mpnn_fasta import Native, Sample, mpnn_fasta, read_mpnn_fasta
from seqalign.files.mpnn_options import import_options
from seqalign.files.numbering import Numbering
from seqalign.files.orderable import Orderable
from seqalign.files.structure import Structure

# chain A: 5 6 (7 missing) 8 8A 8B 9, counted 1 2 3 4 5 6 7; chain B: -1 0 1 2, counted 1 2 3 4
NUMBERING = Numbering(
    ("A",) * 6 + ("B",) * 4, ("5", "6", "8", "8A", "8B", "9", "-1", "0", "1", "2")
)
SEQUENCE = "MKTAYIAKQR"


def _write(tmp_path, option, *lines):
    path = tmp_path / f"{option}.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return {option: path}


def _import(files, sequence=SEQUENCE, numbering=NUMBERING, name="1abc"):
    known = [i for i, letter in enumerate(sequence) if letter != "X"]
    return import_options(files, name, numbering, known)


# what the official files say ----------------------------------------------------------------------


def test_fixed_positions_are_counted_as_proteinmpnn_counts(tmp_path):
    files = _write(
        tmp_path, "fixed_positions", {"2xyz": {"A": [1]}, "1abc": {"A": [1, 2, 3, 5, 7], "B": []}}
    )
    # 3 is the missing residue 7; 5 is the second residue with the number 8
    assert _import(files) == {"fix": "A5-6, A8A, A9"}
    assert NUMBERING.positions("A5-6, A8A, A9") == (1, 2, 4, 6)
    assert _import({"fixed_positions_jsonl": files["fixed_positions"]}) == _import(files)
    assert import_options(files, "1abc", NUMBERING) == _import(files)
    assert _import(_write(tmp_path, "fixed_positions", {"1abc": {"A": [], "B": []}})) == {}


def test_what_cannot_be_designed_is_left_out(tmp_path):
    files = _write(tmp_path, "fixed_positions", {"1abc": {"A": [1, 2, 4]}})
    assert _import(files, "MXTAYIAKQR") == {"fix": "A5, A8"}
    files = _write(tmp_path, "bias_AA", {"K": 1.0})
    assert _import(files, "MXTAYIAKQR")["residues"] == {
        "A5, A8, A8A, A8B, A9, B-1, B0-2": {"bias": {"K": 1.0}}
    }


def test_chains_to_keep_are_fixed(tmp_path):
    files = _write(tmp_path, "chain_id", {"1abc": [["A"], ["B"]]})
    found = _import(files)
    assert found == {"fix": "B-1, B0-2"}
    assert NUMBERING.positions(found["fix"]) == (7, 8, 9, 10)
    assert _import(_write(tmp_path, "chain_id", {"1abc": [["B", "A"], []]})) == {}


def test_ties_lose_missing_members_only(tmp_path):
    ties = [{"A": [1], "B": [1]}, {"A": [3], "B": [2]}, {"A": [4, 5], "B": [3]}, {"A": [7]}]
    files = _write(tmp_path, "tied_positions", {"1abc": ties})
    # A3 is missing: nothing is left to tie B2 to
    assert _import(files) == {"tie": [["A5", "B-1"], ["A8", "A8A", "B1"]]}
    weighted = [{"A": [[1], [1.0]], "B": [[1], [1]]}]
    assert _import(_write(tmp_path, "tied_positions", {"1abc": weighted})) == {
        "tie": [["A5", "B-1"]]
    }
    assert _import(_write(tmp_path, "tied_positions", {"1abc": []})) == {}


def test_omit_and_bias_become_residue_keys(tmp_path):
    files = {
        **_write(tmp_path, "omit_AA", {"1abc": {"A": [[[1, 2, 3], "GPX"], [[2], "C"]], "B": []}}),
        **_write(tmp_path, "bias_AA", {"A": -1.1, "K": 0.7, "X": 3}),
        "omit_AAs": "XC",
    }
    rows = [[0.0] * 21 for _ in range(4)]
    rows[3][0], rows[3][8], rows[3][20] = 1.1, -100.5, 9.0
    files |= _write(tmp_path, "bias_by_res", {"1abc": {"B": rows}})
    common = {"A": -1.1, "K": 0.7}
    found = _import(files)
    assert found == {
        "omit": "C",
        "residues": {
            "A5": {"omit": "GP", "bias": common},
            "A6": {"omit": "CGP", "bias": common},
            "A8, A8A, A8B, A9, B-1, B0-1": {"bias": common},
            "B2": {"bias": {"K": 0.7 - 100.5}},
        },
    }
    everywhere = [i for key in found["residues"] for i in NUMBERING.positions(key)]
    assert sorted(everywhere) == list(range(1, 11)), "no residue stands in two keys"


def test_nothing_is_said_of_fixed_residues(tmp_path):
    files = {
        **_write(tmp_path, "chain_id", {"1abc": [["A"], ["B"]]}),
        **_write(tmp_path, "fixed_positions", {"1abc": {"A": [1]}}),
        **_write(tmp_path, "omit_AA", {"1abc": {"A": [[[1, 2], "C"]], "B": [[[1], "C"]]}}),
    }
    assert _import(files) == {"fix": "A5, B-1, B0-2", "residues": {"A6": {"omit": "C"}}}


def test_several_lines_are_one_table(tmp_path):
    lines = ('{"2xyz": {"A": [1]}}', "", '{"1abc": {"A": [2]}}')
    assert _import(_write(tmp_path, "fixed_positions", *lines)) == {"fix": "A6"}


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_every_index_comes_out_as_its_residue(tmp_path_factory, data):
    names = st.tuples(st.integers(-8, 25), st.sampled_from(["", "", "", "A", "B"]))
    rows = data.draw(
        st.dictionaries(
            st.sampled_from("ABcd1"),
            st.lists(names, min_size=1, max_size=12, unique=True),
            min_size=1,
            max_size=3,
        )
    )
    numbering = Numbering(
        tuple(c for c, some in rows.items() for _ in some),
        tuple(f"{n}{code}" for some in rows.values() for n, code in some),
    )
    letters = data.draw(
        st.text("AKX", min_size=len(numbering), max_size=len(numbering)), label="letters"
    )
    # the counting of the official parser, written down the slow way
    counted = {}
    for chain, some in rows.items():
        order = []
        for n in range(min(n for n, _ in some), max(n for n, _ in some) + 1):
            order += sorted(r for r in some if r[0] == n) or [None]
        counted[chain] = order
    chosen = {
        chain: data.draw(st.lists(st.integers(1, len(order)), unique=True))
        for chain, order in counted.items()
    }
    path = tmp_path_factory.mktemp("f") / "fixed.jsonl"
    path.write_text(json.dumps({"x": chosen}))
    found = _import({"fixed_positions": path}, letters, numbering, "x")
    expected = []
    index = {
        (c, f"{n}{code}"): i
        for i, (c, (n, code)) in enumerate(((c, r) for c, some in rows.items() for r in some), 1)
    }
    for chain, some in chosen.items():
        for p in some:
            if (row := counted[chain][p - 1]) is not None:
                i = index[(chain, f"{row[0]}{row[1]}")]
                expected += [i] * (letters[i - 1] != "X")
    fix = found.get("fix", "")
    assert numbering.positions(fix) == tuple(sorted(expected))
    # and the names also hold for the positions that can be designed, numbered alone
    known = [i for i, a in enumerate(letters) if a != "X"]
    own = numbering.take(known).positions(fix)
    assert [known[i - 1] + 1 for i in own] == sorted(expected)


# sentences ----------------------------------------------------------------------------------------

ROW = [0.0] * 21
WRONG = [
    ("fixed_positions", [""], "is empty"),
    ("fixed_positions", ["{"], r":1: not JSON \(.*column 2"),
    ("fixed_positions", ["{}", "[1]"], ":2: every line is one dictionary"),
    ("fixed_positions", ['{"1abc": {"A": [1], "A": [2]}}'], ":1: the key 'A' stands twice"),
    ("fixed_positions", [{"1abc": {}}, {"1abc": {}}], ":2: 1abc: stands in line 1 too"),
    ("fixed_positions", [{"1ABC": {"A": [1]}}], "nothing of the structure '1abc'.*Rename.*'1ABC'"),
    ("fixed_positions", [{"1abc": [1]}], ":1: 1abc: must be a dictionary"),
    ("fixed_positions", [{"1abc": {"A": 1}}], r":1: 1abc\.A: must be a list"),
    ("fixed_positions", [{"1abc": {"A": [8]}}], r"1abc\.A: position 8 is outside 1-7"),
    ("fixed_positions", [{"1abc": {"A": [0]}}], "position 0 is outside 1-7"),
    ("fixed_positions", [{"1abc": {"A": [1.5]}}], "whole number, got 1.5"),
    ("fixed_positions", [{"1abc": {"A": [True]}}], "whole number, got True"),
    ("fixed_positions", [{"1abc": {"A": ["A1"]}}], "whole number, got 'A1'"),
    ("fixed_positions", [{"1abc": {"C": [1]}}], "no chain 'C' in the structure; it has A, B"),
    ("fixed_positions", ['{"1abc": ' + "[" * 100_000], "nested too deeply"),
    ("fixed_positions", ['{"1abc": {"A": [' + "9" * 5000 + "]}}"], r":1: "),
    ("chain_id", [{"1abc": ["A", "B"]}], "must be a list, got 'A'"),
    ("chain_id", [{"1abc": [["A"]]}], "two lists"),
    ("chain_id", [{"1abc": [["A"], ["A"]]}], "named twice"),
    ("chain_id", [{"1abc": [["A"], []]}], "chain 'B' is in neither list"),
    ("chain_id", [{"1abc": [["A", "Z"], ["B"]]}], "no chain 'Z'"),
    ("chain_id", [{"1abc": [[1], ["B"]]}], "a chain is a name"),
    ("tied_positions", [{"1abc": {"A": [1]}}], "must be a list"),
    ("tied_positions", [{"1abc": [["A"]]}], r"1abc\.1: must be a dictionary"),
    ("tied_positions", [{"1abc": [{"A": [1], "B": [9]}]}], r"1abc\.1\.B: position 9"),
    ("tied_positions", [{"1abc": [{"A": [1], "C": [1]}]}], "no chain 'C'"),
    ("tied_positions", [{"1abc": [{"A": [1, 1]}]}], "A5 is tied twice"),
    (
        "tied_positions",
        [{"1abc": [{"A": [1], "B": [1]}, {"A": [2], "B": [1]}]}],
        r"B-1 is tied twice \(groups 1 and 2\)",
    ),
    ("tied_positions", [{"1abc": [{"A": [[1], [0.5]], "B": [[1], [1]]}]}], "weighted ties are not"),
    ("tied_positions", [{"1abc": [{"A": [[1], []], "B": [1]}]}], r"\[positions\], \[weights\]"),
    ("omit_AA", [{"1abc": {"A": [[1, "C"]]}}], "must be a list, got 1"),
    ("omit_AA", [{"1abc": {"A": [[[1]]]}}], r"an entry is \[\[positions\], letters\]"),
    ("omit_AA", [{"1abc": {"A": [[[1], "CB"]]}}], "must be letters of ACDEFGHIKLMNPQRSTVWYX"),
    ("omit_AA", [{"1abc": {"A": [[[1], ["C"]]]}}], "must be letters"),
    ("bias_AA", [{"AC": 1.0}], "AC: must be one letter"),
    ("bias_AA", [{"B": 1.0}], "B: must be one letter"),
    ("bias_AA", [{"A": "1"}], "A: must be a number, got '1'"),
    ("bias_AA", ['{"A": NaN}'], "A: must be a finite number"),
    ("bias_AA", ['{"A": 1' + "0" * 400 + "}"], "A: must be a finite number"),
    ("bias_by_res", [{"1abc": {"A": [ROW] * 6}}], "has 6 rows, but chain A has 7 positions"),
    ("bias_by_res", [{"1abc": {"B": [ROW] * 3 + [ROW[:20]]}}], r"B\.4: has 20 numbers, not 21"),
    ("bias_by_res", [{"1abc": {"B": [ROW] * 3 + [[None] * 21]}}], r"B\.4: must be a number"),
    ("pssm", [{"1abc": {}}], "scoring matrices are not supported"),
]


@pytest.mark.parametrize(("option", "lines", "words"), WRONG)
def test_wrong_files_end_in_a_sentence(tmp_path, option, lines, words):
    files = _write(tmp_path, option, *lines)
    with pytest.raises(ValueError, match=words) as raised:
        _import(files)
    assert str(files[option]) in str(raised.value)
    assert str(raised.value).endswith(".")


def test_wrong_options_end_in_a_sentence(tmp_path):
    files = _write(tmp_path, "fixed_positions", {"1abc": {}})
    with pytest.raises(ValueError, match=r"'fixed_position' is no option.*'fixed_positions'"):
        _import({"fixed_position": files["fixed_positions"]})
    with pytest.raises(ValueError, match="given twice"):
        _import({**files, "fixed_positions_jsonl": files["fixed_positions"]})
    with pytest.raises(ValueError, match=r"omit_AAs.*must be letters"):
        _import({"omit_AAs": "BZ"})
    with pytest.raises(FileNotFoundError):
        _import({"bias_AA": tmp_path / "none.jsonl"})
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="is not text"):
        _import({"bias_AA": tmp_path / "b.jsonl"})
    far = Numbering(("A", "A"), ("1", "999999999"))
    with pytest.raises(ValueError, match="Renumber"):
        _import(files, "AC", far)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.floats()
    | st.sampled_from(["A", "B", "C", "GP", "1abc", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["A", "B", "C", "1abc", "K", "X"]), inner, max_size=4)
    ),
    max_leaves=12,
)
OPTION = st.sampled_from(
    ["chain_id", "fixed_positions", "tied_positions", "omit_AA", "bias_AA", "bias_by_res"]
)


def _readable(option, path):
    """Import a file, or fail with a sentence that names it; what is read must be readable."""
    try:
        found = _import({option: path})
    except ValueError as error:
        return str(path) in str(error)
    for key in found.get("residues", {}):
        assert NUMBERING.positions(key)
    NUMBERING.positions(found.get("fix", ""))
    for group in found.get("tie", []):
        assert len(NUMBERING.positions(group)) == len(group) > 1
    return True


@given(option=OPTION, value=JSON | JSON.map(lambda x: {"1abc": x}))
@settings(max_examples=100, deadline=None)
def test_no_json_is_a_traceback(tmp_path_factory, option, value):
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_text(json.dumps(value))
    assert _readable(option, path)


VALID = {
    "chain_id": {"1abc": [["A"], ["B"]]},
    "fixed_positions": {"1abc": {"A": [1, 2, 3], "B": [4]}},
    "tied_positions": {"1abc": [{"A": [1], "B": [1]}, {"A": [[2], [1.0]], "B": [[2], [1]]}]},
    "omit_AA": {"1abc": {"A": [[[1, 2], "GP"]], "B": []}},
    "bias_AA": {"A": -1.1, "K": 0.7},
    "bias_by_res": {"1abc": {"B": [[0.5] * 21] * 4}},
}


def _mutated(rng, text):
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(text) + 1)
        piece = rng.choice('{}[],:"0123456789.-eEABX \n\\ \u00e9') * rng.choice((0, 1, 1, 2))
        text = text[:i] + piece + text[i + rng.choice((0, 0, 1, 3)) :]
    return text


def test_no_damaged_file_is_a_traceback(tmp_path):
    rng, path = random.Random(0), tmp_path / "fuzz.jsonl"
    for option, data in VALID.items():
        path.write_text(json.dumps(data))
        assert _import({option: path})
        for _ in range(150):
            path.write_text(_mutated(rng, json.dumps(data)))
            assert _readable(option, path), path.read_text()


# FASTA --------------------------------------------------------------------------------------------

OFFICIAL = """\
>3HTN, score=1.1705, global_score=1.2045, fixed_chains=['B'], designed_chains=['A', 'C'], \
model_name=v_48_020, git_hash=015ff820b9b5741ead6ba6795258f35a9c15e94b, seed=37
NMYSYKXIGNKYI/MFKYIGNKY
>T=0.1, sample=1, score=0.7291, global_score=0.9330, seq_recovery=0.5736
NMYSYKXIGNRYI/MYKYIGNRY
>T=0.1, sample=2, score=0.7414, global_score=0.9355, seq_recovery=0.6075
NMYAYKXIGNKYI/MFKYIGNKF
"""


def test_an_official_file_is_read_and_written_as_it_is(tmp_path):
    path = tmp_path / "3HTN.fa"
    path.write_text(OFFICIAL)
    native, samples = read_mpnn_fasta(path)
    assert native.name == "3HTN"
    assert native.designed_chains == ("A", "C")
    assert native.fixed_chains == ("B",)
    assert native.seed == 37
    assert [s.sample for s in samples] == [1, 2]
    assert samples[0].seq_recovery == 0.5736
    assert not native.extra
    assert mpnn_fasta(native, samples) == OFFICIAL
    path.write_text(OFFICIAL.replace(", model_name", ", CA_model_name"))
    assert read_mpnn_fasta(path)[0].ca_only
    assert mpnn_fasta(*read_mpnn_fasta(path)) == path.read_text()


def test_numbers_are_printed_as_the_official_script_prints_them():
    for value in (0.57359, 1.0, 0.03125, 1e-5, -0.25, 12.34565, math.nan, math.inf):
        expected = np.format_float_positional(np.float32(value), unique=False, precision=4)
        header = Sample("A", 1, 1, value, value, value).header
        assert header == (
            f"T=1.0, sample=1, score={expected}, global_score={expected}, seq_recovery={expected}"
        )


FOUR = st.floats(-50, 50).map(lambda x: float(f"{np.float32(x):.4f}"))
CHAINS = st.lists(st.sampled_from("ABCz1"), unique=True, max_size=3).map(tuple)
WORD = st.text("abcXYZ019_-+.:/ ()=", min_size=1, max_size=12).map(str.strip).filter(bool)
EXTRA = st.dictionaries(st.from_regex(r"[a-zA-Z]\w{0,8}", fullmatch=True), WORD, max_size=3)
# "/" alone is among them: the writer refuses what the reader would
PROTEINS = st.just("/") | st.text(PROTEIN.letters + "X/", min_size=1, max_size=30)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_fasta_comes_back_as_it_went(tmp_path_factory, data):
    taken = {
        *("score", "global_score", "fixed_chains", "designed_chains", "model_name", "seed"),
        *("CA_model_name", "git_hash", "T", "sample", "seq_recovery"),
    }
    extra = EXTRA.filter(lambda e: not set(e) & taken)
    # runs without likelihoods have neither score
    scores = st.just((None, None)) | st.tuples(FOUR, FOUR)
    behind = (CHAINS, CHAINS, WORD, st.integers(0), WORD, st.booleans(), extra)
    natives = st.builds(lambda a, b, s, *c: Native(a, b, *s, *c), WORD, PROTEINS, scores, *behind)
    heads = (PROTEINS, st.floats(1e-4, 10), st.integers(1))
    samples = st.builds(lambda a, b, c, s, *d: Sample(a, b, c, *s, *d), *heads, scores, FOUR, extra)
    native = data.draw(st.none() | natives)
    drawn = data.draw(st.lists(samples, max_size=4))
    assume(native is not None or drawn)
    sequences = [s.sequence for s in drawn] + ([native.sequence] if native else [])
    try:
        text = mpnn_fasta(native, drawn)
    except ValueError:
        bare = any(set(sequence) == {"/"} for sequence in sequences)
        named = native is not None and (native.name.startswith("T=") or "=" in native.name)
        assert bare or named
        return
    path = tmp_path_factory.getbasetemp() / "trip.fa"
    path.write_text(text)
    assert read_mpnn_fasta(path) == (native, drawn)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (">d0001\nMK\n", r"record 1: the header has no score="),
        (">T=0.1, sample=1\nMK\n", "the header has no score="),
        (">T=0.1, sample=1, score=1, seq_recovery=1\nMK\n", "the header has no global_score="),
        (">T=0.1, sample=x, score=1, global_score=1, seq_recovery=1\nMK\n", "invalid literal"),
        (">T=0.1, sample=1, sample=2\nMK\n", "cannot read the header from ' sample=2'"),
        (">T=0.1; sample=1\nMK\n", "could not convert"),
        (">a, score=1, b\nMK\n", "cannot read the header from ' b'"),
        (OFFICIAL + OFFICIAL, "record 4: a native sequence stands first"),
        (OFFICIAL.replace("['B']", "[B]"), r"'\[B\]' is no list of chains"),
    ],
)
def test_other_headers_are_a_sentence(tmp_path, text, words):
    path = tmp_path / "a.fa"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_mpnn_fasta(path)


def test_no_damaged_header_is_a_traceback(tmp_path):
    rng, path = random.Random(0), tmp_path / "fuzz.fa"
    for _ in range(500):
        path.write_text(_mutated(rng, OFFICIAL))
        try:
            native, samples = read_mpnn_fasta(path)
        except ValueError as error:
            named = str(path) in str(error)
        else:
            named = native is not None or bool(samples)
        assert named, path.read_text()


def test_a_header_holds_one_value_per_key():
    for extra in ({"a b": "1"}, {"a": "1, b=2"}, {"a": ""}, {"a": "x\ny"}, {"a": "[1"}):
        with pytest.raises(ValueError, match="A header cannot hold"):
            mpnn_fasta(None, [Sample("MK", 0.1, 1, 0, 0, 0, extra)])
    with pytest.raises(ValueError, match="cannot be a name"):
        mpnn_fasta(Native("a, b", "MK", 0, 0, (), ("A",), "x", 1), [])


def printed(sequence, numbering, designed="AB", absent=()):
    """How ProteinMPNN prints the letters of a backbone; `absent` residues lack atoms."""
    coords = torch.zeros(len(sequence), 4, 3)
    coords[list(absent)] = torch.nan
    design = torch.tensor([c in designed for c in numbering.chains])
    index = torch.arange(len(sequence))
    structure = Structure("x", sequence, coords, numbering, design, index)
    order = Orderable.by_numbers(structure.wild_type, structure)
    text = order.text(structure.wild_type)
    assert order.letters(text) == structure.wild_type
    return text


def test_chains_are_printed_by_name_with_gaps():
    assert printed(SEQUENCE, NUMBERING) == "MKXTAYI/AKQR"
    assert printed(SEQUENCE, NUMBERING, "B") == "AKQR"
    assert printed(SEQUENCE, NUMBERING, absent=[1, 9]) == "MXXTAYI/AKQX"
    # chains stand in the file in any order, and are printed by name
    swapped = NUMBERING.take([6, 7, 8, 9, 0, 1, 2, 3, 4, 5])
    assert printed(SEQUENCE[6:] + SEQUENCE[:6], swapped) == "MKXTAYI/AKQR"
