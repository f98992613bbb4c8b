"""Rewards beside measurements: how tables are read, what is counted, and what a person is told."""

import dataclasses
import gzip
import json
import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure, demo_backbone
from seqalign.rewards import evaluate
from seqalign.rewards.evaluate import BINS, figures, main, predict, reward_of
from seqalign.rewards.measured import read_backbones, read_measured

BACKBONE = demo_backbone()
WILD = BACKBONE.wild_type
PDZ3 = reward_of("pdz3-stability", None)


def mutants(n, seed=0, wild=WILD, most=4):
    """Return n different lists of (0-based position, letter)."""
    draw = random.Random(seed)
    found = []
    while len(found) < n:
        places = sorted(draw.sample(range(len(wild)), draw.randint(1, most)))
        mutant = [(i, draw.choice([a for a in PROTEIN.letters if a != wild[i]])) for i in places]
        if mutant not in found:
            found.append(mutant)
    return found


def sequence(mutant, wild=WILD):
    letters = list(wild)
    for i, a in mutant:
        letters[i] = a
    return "".join(letters)


def spelled(mutant, numbers, wild=WILD, joined=":"):
    return joined.join(f"{wild[i]}{numbers[i]}{a}" for i, a in mutant)


def write(path, columns, rows, separator=","):
    lines = [separator.join(columns), *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    """Fifty variants of the demo's backbone as ddg-mini scores them."""
    some = mutants(50)
    reward = reward_of("ddg-mini", BACKBONE)
    values = evaluate._scores(reward, [sequence(m) for m in some])
    numbers = BACKBONE.known_numbering.numbers
    rows = [(spelled(m, numbers), f"{v:.9f}") for m, v in zip(some, values, strict=True)]
    return write(tmp_path / "scan.csv", ("variant", "score"), rows), values


@pytest.fixture
def pdb(tmp_path):
    path = tmp_path / "x.pdb"
    path.write_text(BACKBONE.to_pdb())
    return path


# figures ------------------------------------------------------------------------------------------


def test_figures_are_what_their_words_say():
    rng = np.random.default_rng(0)
    predicted = np.round(rng.normal(0, 1, 400), 2)
    measured = 0.5 * predicted + rng.normal(0, 0.5, 400)
    proteins = np.array(["a"] * 250 + ["b"] * 141 + ["c"] * 9)
    found = figures(predicted, measured, proteins)
    own = [spearmanr(predicted[proteins == p], measured[proteins == p])[0] for p in "ab"]
    assert found.per_protein == pytest.approx(np.mean(own))
    assert (found.n, found.proteins, found.judged) == (400, 3, 2)
    gain = predicted > 0
    assert found.spearman_of_gains == pytest.approx(spearmanr(predicted[gain], measured[gain])[0])
    slope, intercept = np.polyfit(predicted, measured, 1)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))
    # every predicted gain is in one bin, and losses are in none
    assert sum(b.n for b in found.bins) == found.gains == gain.sum()
    for b in found.bins:
        there = [m for p, m in zip(predicted, measured, strict=True) if b.low < p <= b.high]
        assert b.n == len(there)
        if there:
            assert b.measured == pytest.approx(np.mean(there))
            assert b.above == pytest.approx(np.mean([m > 0 for m in there]))
    shuffled = rng.permutation(400)
    again = figures(predicted[shuffled], measured[shuffled], proteins[shuffled])
    for name, value in dataclasses.asdict(found).items():
        if name != "bins":
            assert getattr(again, name) == pytest.approx(value), name


def test_figures_without_enough_rows_are_none():
    for n in (0, 1, 2):
        found = figures(np.arange(n) - 5.0, np.zeros(n), np.array([""] * n))
        assert found.spearman is found.pearson is found.slope is found.spearman_of_gains is None
        assert all(b.n == 0 and b.measured is None and b.above is None for b in found.bins)
    alike = figures(np.ones(5), np.arange(5.0), np.array([""] * 5))
    assert alike.spearman is alike.slope is None
    assert alike.bins[2].n == 5
    assert BINS[-1] == math.inf


# tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_table_says_the_same_in_every_spelling(tmp_path, seed):
    draw = random.Random(seed)
    some = mutants(12, seed)
    values = [round(draw.uniform(-3, 3), 3) for _ in some]
    numbers = BACKBONE.known_numbering.numbers
    zero_based = [str(i) for i in range(len(WILD))]
    plain = Numbering.plain(len(WILD))
    expected = [(sequence(m), len(m), v) for m, v in zip(some, values, strict=True)]

    def rows_of(path, homes=BACKBONE, **how):
        found = read_measured(path, homes, **how)
        assert not found.skipped
        return [(r.sequence, r.changes, r.measured) for r in found.rows]

    def rows(spell, value="{:.3f}"):
        return [(spell(m), value.format(v)) for m, v in zip(some, values, strict=True)]

    joined = draw.choice([":", "+", "_", "/"])
    ways = [
        (("Variant", "Score"), rows(lambda m: spelled(m, numbers, joined=joined)), ",", {}),
        (("mutations", "ddg_kcal_mol"), rows(lambda m: spelled(m, numbers).lower()), "\t", {}),
        (("AA sequence", "fitness (a.u.)"), rows(sequence), ",", {}),
        (("seq", "activity"), [(s, v.replace(".", ",")) for s, v in rows(sequence)], ";", {}),
        (("mutant", "score"), rows(lambda m: spelled(m, zero_based)), "|",
         {"homes": WILD, "offset": 1}),
        (("mutant", "y"), rows(lambda m: spelled(m, plain.numbers)), ",", {"homes": WILD}),
    ]  # fmt: skip
    for columns, some_rows, separator, how in ways:
        path = write(tmp_path / "table.csv", columns, some_rows, separator)
        assert rows_of(path, **how) == expected, columns
        turned = rows_of(path, **how, lower_is_better=True, zero=1.0)
        assert [r[2] for r in turned] == pytest.approx([1 - v for v in values])


def test_the_wild_type_is_no_variant_and_is_said(tmp_path):
    path = write(tmp_path / "t.csv", ("variant", "score"), [("WT", 0.5), ("Q3A", 1), ("V4V", 2)])
    found = read_measured(path, "ACQV")
    assert [r.changes for r in found.rows] == [1]
    assert "2 rows hold the wild type" in found.notes[0]
    assert "+1.250" in found.notes[0]


def test_rows_that_do_not_fit_are_skipped_with_a_cause(tmp_path):
    rows = [("Q3A", 1), ("Q3A", ""), ("Q3A", "n.d."), ("Q3del", 1), ("A3Q", 1), ("Q3A", "nan")]
    found = read_measured(write(tmp_path / "t.csv", ("variant", "score"), rows), "ACQV")
    assert len(found.rows) == 1
    causes = [cause for _, cause in found.skipped]
    words = ("is empty", "'n.d.'", "deletion", "the wild type at 3 is Q", "'nan'")
    assert len(causes) == len(words)
    for cause, word in zip(causes, words, strict=True):
        assert word in cause
    assert all(place.startswith(f"{tmp_path}/t.csv:") for place, _ in found.skipped)


def test_columns_that_disagree_are_skipped(tmp_path):
    rows = [("Q3A", "ACAV", 1), ("Q3A", "ACQA", 1)]
    path = write(tmp_path / "t.csv", ("variant", "sequence", "score"), rows)
    found = read_measured(path, "ACQV")
    assert len(found.rows) == 1
    assert "disagree" in found.skipped[0][1]


def test_sequences_need_no_wild_type_and_variants_do(tmp_path):
    path = write(tmp_path / "t.csv", ("sequence", "score"), [("ACQV", 1), ("ACQ", 2)])
    found = read_measured(path, "")
    assert [(r.sequence, r.changes) for r in found.rows] == [("ACQV", -1), ("ACQ", -1)]
    path = write(tmp_path / "t.csv", ("variant", "score"), [("Q3A", 1)])
    with pytest.raises(ValueError, match="needs a wild type: give --structure"):
        read_measured(path, "")


def test_backbones_in_lines_are_structures_as_they_are_read(tmp_path, pdb):
    from seqalign.files.structure import read_structure

    read = read_structure(pdb)
    made = Structure.of("x", read.sequence, read.coords, read.numbering)
    assert torch.equal(made.residue_index, read.residue_index)
    assert torch.equal(made.coords, read.coords)
    assert bool(made.design.all())
    atoms = dict(zip(("N", "CA", "C", "O"), read.coords.unbind(1), strict=True))
    record = {"pdb": "x", "chain": read.numbering.chains[0], "author": read.numbering.numbers}
    record |= {"seq": read.sequence, "coords": {a: xyz.tolist() for a, xyz in atoms.items()}}
    path = tmp_path / "b.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(record) + "\n\n")
    assert read_backbones([path]) == {"x": [made]}
    with gzip.open(path, "at") as file:
        file.write('{"pdb": "y"}\n')
    with pytest.raises(ValueError, match="line 2: is no backbone"):
        read_backbones([path])


def test_several_proteins_are_each_alone(tmp_path, pdb):
    """Two proteins in one table score what each scores alone."""
    half = len(BACKBONE) // 2
    parts = {"first": slice(0, half), "second": slice(half, None)}
    lines, rows, alone = [], [], []
    for name, part in parts.items():
        numbering = BACKBONE.numbering.take(range(len(BACKBONE))[part])
        one = Structure.of(name, BACKBONE.sequence[part], BACKBONE.coords[part], numbering)
        coords = {a: one.coords[:, n].tolist() for n, a in enumerate(("N", "CA", "C", "O"))}
        lines.append(json.dumps({
            "pdb": name, "chain": "A", "author": numbering.numbers, "seq": one.sequence,
            "coords": coords,
        }))  # fmt: skip
        some = mutants(15, 3, one.wild_type)
        reward = reward_of("ddg-mini", one)
        alone += list(evaluate._scores(reward, [sequence(m, one.wild_type) for m in some]))
        spell = [spelled(m, numbering.numbers, one.wild_type, "+A:") for m in some]
        rows += [(name, f"A:{text}", n) for n, text in enumerate(spell)]
    backbones = tmp_path / "b.jsonl"
    backbones.write_text("\n".join(lines))
    path = write(tmp_path / "t.csv", ("pdb", "mutations", "ddg"), rows)
    measured = read_measured(path, read_backbones([backbones]))
    assert sorted(set(measured.proteins)) == ["first", "second"]
    said, unit = predict("ddg-mini", measured)
    assert unit == "kcal/mol"
    assert said == pytest.approx(alone, abs=1e-9)
    rows.append(("third", "A:Q3A", 1))
    path = write(tmp_path / "t.csv", ("pdb", "mutations", "ddg"), rows)
    assert (
        "no backbone of 'third'" in read_measured(path, read_backbones([backbones])).skipped[0][1]
    )


# the command line ---------------------------------------------------------------------------------


def test_a_reward_agrees_with_itself(table, pdb, capsys):
    path, values = table
    assert main(["ddg-mini", "--data", str(path), "--structure", str(pdb), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    (reward,) = said["rewards"]
    assert (reward["name"], reward["unit"]) == ("ddg-mini", "kcal/mol")
    assert set(reward["parts"]) == {"all", "single mutants", "multiple mutants"}
    every = reward["parts"]["all"]
    # a PDB file has three digits
    assert every["spearman"] > 0.999
    assert every["slope"] == pytest.approx(1, abs=1e-2)
    assert every["gains"] == pytest.approx((values > 0).sum(), abs=1)
    assert sum(part["n"] for part in reward["parts"].values()) == 2 * every["n"] == 100


def test_a_person_sees_ranks_and_tails(table, pdb, capsys):
    path, _ = table
    assert main(["ddg-mini", "ddg-mini-b", "--data", str(path), "--structure", str(pdb)]) == 0
    out = capsys.readouterr().out
    parts = ["scan.csv: score (higher is better)", "single mutants", "multiple mutants"]
    for words in (*parts, "predicted gain", "0.25 to 0.5", "above 2", "ddg-mini-b", "kcal/mol"):
        assert words in out, words
    assert max(map(len, out.splitlines())) <= 160


def test_a_wrong_sign_is_asked_about(table, pdb, capsys):
    path, _ = table
    arguments = ["ddg-mini", "--data", str(path), "--structure", str(pdb), "--lower-is-better"]
    assert main(arguments) == 0
    assert "Try without --lower-is-better" in capsys.readouterr().err


def test_a_reward_of_one_protein_brings_its_wild_type(tmp_path, capsys):
    some = mutants(20, 1, PDZ3.wild_type)
    values = evaluate._scores(PDZ3, [sequence(m, PDZ3.wild_type) for m in some])
    numbers = [str(i) for i in range(84)]
    rows = [
        (spelled(m, numbers, PDZ3.wild_type, "_"), v) for m, v in zip(some, values, strict=True)
    ]
    path = write(tmp_path / "scan.tsv", ("variant", "score"), rows, "\t")
    assert main(["pdz3-stability", "--data", str(path)]) == 2
    assert "say --offset 1" in capsys.readouterr().err
    assert main(["pdz3-stability", "--data", str(path), "--offset", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rewards"][0]["parts"]["all"]
    assert found["spearman"] == pytest.approx(1)


def test_skipped_rows_are_said_and_counted(tmp_path, capsys):
    rows = [("Q3A", 1), ("Q3C", 2), ("Q3D", 0), ("Q3del", 1)]
    path = write(tmp_path / "t.csv", ("variant", "score"), rows)
    assert main(["hydropathy", "--data", str(path), "--wild-type", "ACQV"]) == 2
    shown = capsys.readouterr()
    assert "deletion" in shown.err
    assert "1 of 4 rows were skipped" in shown.err
    assert "single mutants: 3 rows" in shown.out


def test_weights_that_are_missing_have_their_own_exit_code(table, pdb, capsys):
    path, _ = table
    name = "mpnn-log-odds:checkpoint=nowhere.pt"
    assert main([name, "--data", str(path), "--structure", str(pdb)]) == 4
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ddg-mini"], "needs a structure: give --structure"),
        (["ddg-mimi"], "Did you mean 'ddg-mini'"),
        (["hydropathy:colour=3", "--wild-type", "ACQV"], "has no parameter 'colour'"),
        (["hydropathy:3", "--wild-type", "ACQV"], "write hydropathy:key=value"),
        (["hydropathy", "--wild-type", "ACXV"], "--wild-type holds 'X'"),
        (["hydropathy", "--wild-type", "ACQV", "--measured", "height"], "no column 'height'"),
        (["hydropathy", "--wild-type", "ACQV", "--data", "nowhere.csv"], "no such file"),
        (["hydropathy", "--wild-type", "WWWW"], "none of its 2 rows"),
    ],
)
def test_errors_are_sentences(tmp_path, capsys, arguments, words):
    path = write(tmp_path / "t.csv", ("variant", "score"), [("Q3A", 1), ("V4A", 2)])
    given = arguments if "--data" in arguments else [*arguments, "--data", str(path)]
    assert main(given) == 2
    shown = capsys.readouterr()
    assert words in " ".join(shown.err.split())
    assert shown.err.startswith("error: ")
    assert not shown.out


def test_the_measured_column_is_asked_for_where_several_fit(tmp_path, capsys):
    path = write(tmp_path / "t.csv", ("variant", "score", "score_b", "n"), [("Q3A", 1, 2, 3)])
    assert main(["hydropathy", "--wild-type", "ACQV", "--data", str(path)]) == 2
    assert "--measured COLUMN; columns of numbers: 'score', 'score_b'" in capsys.readouterr().err
