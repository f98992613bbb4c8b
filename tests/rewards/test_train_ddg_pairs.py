"""Training of ddg-pairs: splits, features that equal the reward, antisymmetry, determinism."""

import csv
import gzip
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from backbones import HELIX, STRAND, TURN, backbone

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.files.numbering import Numbering
from seqalign.files.structure import Structure
from seqalign.rewards import ddg_data, ddg_pairs, train_ddg_pairs
from seqalign.rewards.ddg_data import Chain, Row
from seqalign.rewards.potts import Potts


def sequence(seed, length=40):
    return "".join(random.Random(seed).choices(PROTEIN.letters, k=length))


def coords(seed, length=40):
    draw = random.Random(seed)
    torsions = []
    while len(torsions) < length:
        torsions += [draw.choice([HELIX, STRAND])] * draw.randint(4, 9) + [TURN]
    return backbone(torsions[:length])


def chain(seed, name="x", cluster="1"):
    letters = PROTEIN.encode([sequence(seed)])[0]
    return Chain(name, letters, coords(seed), cluster)


def network(seed=0):
    torch.manual_seed(seed)
    made = Potts(8, 3)
    return made.eval().requires_grad_(False)


def rows_of(made, n, seed=0, protein="x"):
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        i = draw.randrange(len(made.letters))
        wild = int(made.letters[i])
        mutant = (wild + draw.randint(1, 19)) % 20
        rows.append(Row(protein, "A", i, wild, mutant, draw.gauss(-1, 1)))
    return rows


# splits -------------------------------------------------------------------------------------------


def test_e_values_tell_homologs_from_strangers():
    a, b = sequence(1, 100), sequence(2, 100)
    half = "".join(x if i % 2 else y for i, (x, y) in enumerate(zip(a, b, strict=True)))
    assert ddg_data.e_value(a, a) < 1e-30
    assert ddg_data.e_value(a, half) < 1e-3
    assert ddg_data.e_value(a, b) > 1e-2


def test_groups_are_linked_through_a_third_protein_and_through_any_chain():
    a, b = sequence(1, 90), sequence(2, 90)
    sequences = {
        ("1AAA", "A"): a,
        ("2BBB", "A"): b,
        ("3CCC", "A"): a[20:] + b[:70],
        ("4DDD", "A"): sequence(3),
        ("5EEE", "A"): sequence(5),
        ("5EEE", "B"): sequence(3),
    }
    group = ddg_data.homology_groups(sequences)
    assert group["1AAA"] == group["2BBB"] == group["3CCC"]
    assert group["4DDD"] == group["5EEE"] != group["1AAA"]


def test_mini_families_are_kept_out_and_folds_are_whole_groups():
    chains = {(f"{n}XXX", "A"): chain(n) for n in range(8)}
    chains["0YYY", "A"] = chain(0)
    rows = [r for key, c in chains.items() for r in rows_of(c, 5, protein=key[0])]
    minis = {"1ABC": sequence(3), "HHH_rd1_1": sequence(4)}
    split = ddg_data.split(chains, rows, minis)
    # the designed one has no family, whatever it looks like
    assert split.kept_out == {"3XXX"}
    assert split.fold["0XXX"] == split.fold["0YYY"]
    assert set(split.fold) == {p for p, _ in chains} - {"3XXX"}


def test_deal_is_balanced_and_independent_of_the_order():
    sizes = {"a": 9, "b": 5, "c": 4, "d": 3, "e": 3}
    dealt = ddg_data._deal(sizes, 2)
    assert dealt == ddg_data._deal(dict(reversed(sizes.items())), 2)
    assert [sum(n for g, n in sizes.items() if dealt[g] == h) for h in (0, 1)] == [12, 12]


def test_a_cluster_with_one_homolog_goes_as_a_whole():
    chains = [chain(1, "a", "7"), chain(2, "b", "7"), chain(3, "c", "8")]
    kept = ddg_data.strangers(chains, [sequence(2)])
    assert [c.name for c in kept] == ["c"]


# the regression -----------------------------------------------------------------------------------


def test_training_features_are_the_energy_of_the_reward():
    """Single mutants: differences of columns times weights equal the reward's look-up."""
    made, net = chain(4), network()
    theta = np.random.default_rng(1).normal(size=198) * 0.1
    theta[:4] = (0.5, -0.3, 0.7, 0.4)
    weights = train_ddg_pairs.packed(net, theta)
    structure = Structure(
        name="x",
        sequence=made.sequence,
        coords=made.coords.float(),
        numbering=Numbering.plain(len(made.letters)),
        design=torch.ones(len(made.letters), dtype=torch.bool),
        residue_index=torch.arange(len(made.letters)),
    )
    reward = ddg_pairs.of_structure("x", weights, structure)
    rows = rows_of(made, 30, seed=2)
    x = made.letters.repeat(30, 1)
    for row, r in zip(x, rows, strict=True):
        row[r.position] = r.mutant
    predicted = train_ddg_pairs.differences(net, {("x", "A"): made}, rows) @ theta
    scored = reward(Designs(x[None], PROTEIN))[0]
    np.testing.assert_allclose(predicted, scored.numpy(), atol=2e-4)


def test_the_regression_is_antisymmetric():
    """Reverse mutations, with the opposite sign, say the same thing."""
    made, net = chain(5), network()
    rows = rows_of(made, 40)
    x = train_ddg_pairs.differences(net, {("x", "A"): made}, rows)
    reverse = [replace(r, wild=r.mutant, mutant=r.wild, stability=-r.stability) for r in rows]
    theta = train_ddg_pairs.fit(x, rows)
    np.testing.assert_array_equal(train_ddg_pairs.fit(-x, reverse), theta)


def test_the_regression_finds_a_signal_and_clips_an_outlier():
    made, net = chain(6), network()
    rows = rows_of(made, 200, seed=3)
    x = train_ddg_pairs.differences(net, {("x", "A"): made}, rows)
    # the truth: volume of the letter where it is buried
    truth = x[:, 44 + 14 + 2]
    rows = [replace(r, stability=float(y)) for r, y in zip(rows, truth, strict=True)]
    found = x @ train_ddg_pairs.fit(x, rows)
    assert np.corrcoef(found, truth)[0, 1] > 0.9
    wild = [replace(rows[0], stability=1e6), *rows[1:]]
    clipped = [replace(rows[0], stability=ddg_data.CLIP), *rows[1:]]
    np.testing.assert_array_equal(train_ddg_pairs.fit(x, wild), train_ddg_pairs.fit(x, clipped))


def test_correlations_are_per_protein_where_there_are_enough_rows():
    rows = [Row("a", "A", i, 0, 1, float(i)) for i in range(12)]
    rows += [Row("b", "A", i, 0, 1, float(-i)) for i in range(12)]
    rows += [Row("few", "A", i, 0, 1, 0.5) for i in range(3)]
    prediction = np.array([*range(12), *range(12), 0.0, 1.0, 2.0])
    mean, n, _ = train_ddg_pairs.correlations(rows, prediction)
    assert n == 2
    assert mean == pytest.approx(0.0)


# the whole script ---------------------------------------------------------------------------------


def record(seed, **more):
    x = coords(seed)
    return {
        "seq": sequence(seed),
        "coords": {a: x[:, k].tolist() for k, a in enumerate(("N", "CA", "C", "O"))},
        **more,
    }


@pytest.fixture
def data(tmp_path):
    (tmp_path / "structures").mkdir()
    (tmp_path / "stability").mkdir()

    def write(path, records):
        with gzip.open(tmp_path / path, "wt") as file:
            file.writelines(json.dumps(r) + "\n" for r in records)

    write(
        "structures/chains_train.jsonl.gz",
        [record(n, name=f"n{n}", cluster=n) for n in range(100, 112)],
    )
    write("structures/chains_extra.jsonl.gz", [record(120, name="n120", cluster=103)])
    proteins = [f"{n}ABC" for n in range(6)]
    write(
        "stability/protherm_backbones.jsonl.gz",
        [
            record(n, pdb=p, chain="A", author=[str(i + 3) for i in range(40)])
            for n, p in enumerate(proteins)
        ],
    )
    with (tmp_path / "stability" / "protherm_ddg.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(("pdb", "mutations", "ddg_kcal_mol"))
        for n, p in enumerate(proteins):
            for i in range(0, 40, 3):
                wild = sequence(n)[i]
                mutant = PROTEIN.letters[(PROTEIN.letters.index(wild) + 1 + i) % 20]
                if mutant != wild:
                    table.writerow((p, f"A:{wild}{i + 3}{mutant}", i / 10 - 1))
    with (tmp_path / "structures" / "minis.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(("name", "name_wt", "mutant", "sequence"))
        table.writerow(("1MINI", "1MINI", "False", sequence(0)))
    return tmp_path


def test_training_is_deterministic_and_its_files_make_rewards(data, tmp_path):
    torch.set_num_threads(1)
    for folder in ("one", "two"):
        train_ddg_pairs.train(data, tmp_path / folder, epochs=1)
    first = (tmp_path / "one" / "ddg-pairs.safetensors").read_bytes()
    assert first == (tmp_path / "two" / "ddg-pairs.safetensors").read_bytes()
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["ddg-pairs.safetensors"]
    weights = ddg_pairs.read_weights(tmp_path / "one" / "ddg-pairs.safetensors")
    assert weights["products"].shape == (11, 14)
    assert all(bool(w.isfinite().all()) for w in weights.values())


def test_rows_that_are_no_mutations_are_left_out_and_both_tables_are_read(data):
    stability = data / "stability"
    path = stability / "protherm_ddg.csv"
    _, rows = ddg_data.measured(data)
    path.write_text(path.read_text() + f"0ABC,A:{sequence(0)[0]}3{sequence(0)[0]},-1.0\n")
    assert ddg_data.measured(data)[1] == rows
    with gzip.open(stability / "megascale_ddg.csv.gz", "wt") as file:
        file.write(path.read_text())
    backbones = (stability / "protherm_backbones.jsonl.gz").read_bytes()
    (stability / "megascale_backbones.jsonl.gz").write_bytes(backbones)
    assert ddg_data.measured(data, "megascale")[1] == rows


def test_the_tail_is_what_was_measured_where_gains_were_predicted():
    prediction = np.array([-1.0, 0.1, 0.2, 0.3, 0.6, 0.7, 2.0])
    y = np.array([-3.0, -1.0, 1.0, -2.0, 1.0, 2.0, 3.0])
    head, *lines = train_ddg_pairs.tail(y, prediction)
    assert "57 % stabilizing" in head
    assert lines[0] == "predicted 0 to 0.25: 2 rows, measured mean 0.00, 50 % stabilizing"
    assert lines[1] == "predicted 0.25 to 0.5: 1 rows, measured mean -2.00, 0 % stabilizing"
    assert lines[2] == "predicted 0.5 to 1: 2 rows, measured mean 1.50, 100 % stabilizing"
    assert lines[3] == "predicted 1 to inf: 1 rows, measured mean 3.00, 100 % stabilizing"
    assert train_ddg_pairs.tail(y[:4], prediction[:4])[-1] == "predicted 1 to inf: 0 rows"


def test_rows_that_do_not_fit_their_backbone_are_refused(data):
    path = data / "stability" / "protherm_ddg.csv"
    text = path.read_text().splitlines()
    wild = sequence(0)[0]
    other = next(a for a in PROTEIN.letters if a != wild)
    path.write_text("\n".join([text[0], f"0ABC,A:{other}3{wild},1.0"]))
    with pytest.raises(ValueError, match="does not fit the backbone's letter"):
        ddg_data.measured(data)


def test_nothing_to_do_is_an_error(data):
    with pytest.raises(SystemExit):
        train_ddg_pairs.main(["--data", str(data)])
