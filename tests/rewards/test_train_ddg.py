"""Training of ddg-mini: rows and folds, features that are the reward, calibration, repeats."""

import csv
import gzip
import json
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from backbones import HELIX, STRAND, TURN, backbone

from seqalign.core.process import Designs
from seqalign.core.sequence import PROTEIN
from seqalign.rewards import ddg, ddg_regression, stability_data, train_ddg
from seqalign.rewards.ddg import Calibration
from seqalign.rewards.ddg_regression import Normal, Predicted, Reduction, tabled
from seqalign.rewards.stability_data import Mutant

LENGTH = 24


def sequence(seed, length=LENGTH):
    return "".join(random.Random(seed).choices(PROTEIN.letters, k=length))


def coords(seed, length=LENGTH):
    draw = random.Random(seed)
    torsions = []
    while len(torsions) < length:
        torsions += [draw.choice([HELIX, STRAND])] * draw.randint(4, 9) + [TURN]
    return backbone(torsions[:length]).float()


def structure(seed):
    numbers = [str(i + 3) for i in range(LENGTH)]
    return stability_data.structure_of(f"{seed}ABC_A", sequence(seed), coords(seed), numbers)


def changes(made, substitutions, draw):
    wild = PROTEIN.encode([made.sequence])[0].tolist()
    places = draw.sample(range(LENGTH), substitutions)
    return tuple((i, wild[i], (wild[i] + draw.randint(1, 19)) % 20) for i in places)


def variants(made, n, substitutions, seed=0, group="g"):
    draw = random.Random(seed)
    return [
        Mutant(made.name, group, changes(made, substitutions, draw), draw.gauss(-1, 1))
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def world():
    """Six made-up proteins, described and reduced: structures, seen, reduction."""
    structures = {s.name: s for s in map(structure, range(6))}
    seen = {name: ddg.described(ddg.network(), s) for name, s in structures.items()}
    return structures, seen, Reduction.of(list(seen.values()))


# the regression -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ddg.VARIANTS)
def test_training_features_are_the_reward_in_every_variant(world, variant):
    """Sums of rows times weights, read by a calibration, equal what the reward looks up."""
    structures, seen, reduction = world
    rng = np.random.default_rng(1)
    theta = torch.from_numpy(rng.normal(size=reduction.width)) * 0.1
    calibration = Calibration(0.7, 0.8, 0.13, 2.0, tuple(n / 100 for n in range(20)))
    head = reduction.head(theta, calibration)
    for name, made in list(structures.items())[:2]:
        rows = [m for n in (1, 2, 5) for m in variants(made, 6, n, seed=n)]
        table = tabled(reduction, seen, structures, rows)
        score = Predicted.of(table, [theta]).score(
            None if variant == "raw" else calibration, penalty=variant == "lower"
        )
        x = PROTEIN.encode([made.sequence])[0].repeat(len(rows), 1)
        for row, m in zip(x, rows, strict=True):
            for place, _, new in m.changes:
                row[place] = new
        reward = ddg.of_structure(name, head, made, variant=variant)
        np.testing.assert_allclose(score, reward(Designs(x[None], PROTEIN))[0].numpy(), atol=1e-3)


def test_reverse_mutations_with_the_opposite_sign_say_the_same(world):
    structures, seen, reduction = world
    made = structures["1ABC_A"]
    rows = variants(made, 30, 1)
    table = tabled(reduction, seen, structures, rows)
    fit = Normal.of(table, {"g": 0}).fit([0])
    mirrored = [
        Mutant(m.protein, m.group, tuple((i, b, a) for i, a, b in m.changes), -m.stability)
        for m in rows
    ]
    wild = PROTEIN.encode([made.sequence])[0]
    other = reduction.rows(
        seen[made.name], wild, torch.tensor([c for m in mirrored for c in m.changes])
    )
    torch.testing.assert_close(other, -table.single, rtol=0, atol=1e-12)
    back = train_ddg.Table(mirrored, other, table.owner, None)
    torch.testing.assert_close(Normal.of(back, {"g": 0}).fit([0]), fit, rtol=0, atol=1e-9)


def test_a_fit_of_folds_is_the_fit_of_their_rows_alone(world):
    structures, seen, reduction = world
    rows = [
        m for n, made in enumerate(structures.values())
        for m in variants(made, 20, 1, seed=n, group=f"g{n}")
    ]  # fmt: skip
    fold = {f"g{n}": n % 5 for n in range(6)}
    whole = Normal.of(tabled(reduction, seen, structures, rows), fold)
    some = [m for m in rows if fold[m.group] in (1, 3)]
    alone = Normal.of(tabled(reduction, seen, structures, some), fold)
    torch.testing.assert_close(whole.fit({1, 3}), alone.fit({1, 3}), rtol=0, atol=1e-10)


def test_the_regression_finds_a_signal_and_clips_an_outlier(world):
    structures, seen, reduction = world
    made = structures["2ABC_A"]
    rows = variants(made, 200, 1, seed=3)
    table = tabled(reduction, seen, structures, rows)
    truth = 2 * table.single[:, reduction.width - 1 - 25 * 10]
    rows = [Mutant(m.protein, "g", m.changes, float(y)) for m, y in zip(rows, truth, strict=True)]
    table = tabled(reduction, seen, structures, rows)
    found = Predicted.of(table, [Normal.of(table, {"g": 0}).fit([0])]).score(None)
    assert np.corrcoef(found, truth)[0, 1] > 0.9
    fits = []
    for first in (1e6, ddg_regression.CLIP):
        changed = [Mutant(rows[0].protein, "g", rows[0].changes, first), *rows[1:]]
        fits.append(Normal.of(tabled(reduction, seen, structures, changed), {"g": 0}).fit([0]))
    assert torch.equal(*fits)


# how gains are read -------------------------------------------------------------------------------


def predictions(gains, joint, y, owner=None):
    owner = np.arange(len(y)) if owner is None else owner
    letters = np.arange(len(gains)) % 20
    return Predicted(np.array(gains), letters, owner, np.array(joint), np.array(y))


def test_the_calibration_finds_the_map_and_the_least_penalty():
    rng = np.random.default_rng(5)
    gains = rng.uniform(-1, 3, 4000)
    truth = Calibration(0.5, 1.0, 0, 1).mapped(torch.from_numpy(gains)).numpy()
    single = predictions(gains, 0 * gains, truth + rng.normal(0, 0.1, 4000))
    # two substitutions each; truly stabilized exactly where their sum exceeds 0.6
    pairs = rng.uniform(0, 0.8, (2000, 2))
    worth = Calibration(0.5, 1.0, 0, 1).mapped(torch.from_numpy(pairs)).numpy().sum(1)
    several = predictions(
        pairs.flatten(), np.zeros(2000), np.sign(worth - 0.4), np.arange(2000).repeat(2)
    )
    found = ddg_regression.calibrated(single, several)
    assert found.slope == pytest.approx(0.5, abs=0.06)
    assert found.top == pytest.approx(1.0, abs=0.21)
    assert 0 < found.penalty < 0.2

    def share(penalty):
        made = Calibration(found.slope, found.top, penalty, found.ceiling)
        return (several.y[several.score(made) > 0] > 0).mean()

    assert share(found.penalty) >= ddg_regression.SURE
    assert share(found.penalty - 0.011) < ddg_regression.SURE
    assert found.ceiling == 1.0


def test_the_calibration_finds_what_new_letters_cost():
    rng = np.random.default_rng(6)
    costs = np.where(np.arange(20) % 3 == 0, 0.3, 0.0)
    gains = rng.uniform(-2, 2, 8000)
    truth = Calibration(0.5, 1.0, 0, 1).mapped(torch.from_numpy(gains)).numpy()
    y = truth - costs[np.arange(8000) % 20] + rng.normal(0, 0.1, 8000)
    single = predictions(gains, 0 * gains, y)
    found = ddg_regression.calibrated(single, predictions([0.1] * 3, [0] * 3, [1, 1, 1]))
    np.testing.assert_allclose(found.letters, costs, atol=0.03)
    assert (found.slope, found.top) == (0.5, pytest.approx(1.0))


def test_taking_some_variants_keeps_their_substitutions():
    p = predictions([1, 2, 3, 4, 5], [0.5, 0, 0.25], [1, 2, 3], np.array([0, 0, 1, 2, 2]))
    some = p.take(np.array([True, False, True]))
    np.testing.assert_array_equal(some.score(None), [3.5, 9.25])
    np.testing.assert_array_equal(some.y, [1, 3])


def test_rows_of_the_card_cover_every_prediction_once():
    rng = np.random.default_rng(2)
    p, y = rng.normal(-0.5, 1.2, 500), rng.normal(0, 1, 500)
    rows = train_ddg.rows_of_card("raw", "single", y, p)
    assert sum(r["n"] for r in rows) == 500
    assert all(a["high"] == b["low"] for a, b in pairwise(rows))
    assert rows[0]["low"] < p.min()
    assert rows[-1]["high"] >= p.max()
    inside = (p > 0.25) & (p <= 0.5)
    (row,) = (r for r in rows if r["low"] == 0.25)
    assert row["n"] == inside.sum()
    assert row["mean"] == pytest.approx(y[inside].mean(), abs=0.006)
    assert row["share"] == pytest.approx((y[inside] > 0).mean(), abs=0.006)


# rows and the whole script ------------------------------------------------------------------------


def test_groups_are_dealt_whole_and_balanced():
    rows = [
        Mutant("p", g, ((0, 0, 1),), 0.0) for g, n in {"a": 9, "b": 5, "c": 4, "d": 3}.items()
        for _ in range(n)
    ]  # fmt: skip
    assert stability_data.dealt(rows, 2) == {"a": 0, "b": 1, "c": 1, "d": 0}
    assert stability_data.dealt(rows[::-1], 2) == stability_data.dealt(rows, 2)
    assert set(train_ddg.half_of(rows).values()) <= {"ddg-mini", "ddg-mini-b"}


def record(seed):
    x = coords(seed)
    return {
        "pdb": f"{seed}ABC",
        "chain": "A",
        "author": [str(i + 3) for i in range(LENGTH)],
        "seq": sequence(seed),
        "coords": {a: x[:, k].tolist() for k, a in enumerate(("N", "CA", "C", "O"))},
    }


def text(m):
    return "+".join(f"A:{PROTEIN.letters[w]}{i + 3}{PROTEIN.letters[n]}" for i, w, n in m.changes)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "stability"
    folder.mkdir()

    def write(name, seeds):
        with gzip.open(folder / f"{name}_backbones.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(record(n)) + "\n" for n in seeds)

    def table(name, rows):
        with gzip.open(folder / name, "wt") as file:
            out = csv.writer(file)
            out.writerow(("pdb", "mutations", "ddg_kcal_mol", "group", "near_benchmark"))
            for m in rows:
                out.writerow((m.protein[:-2], text(m), -m.stability, m.group, "false"))

    write("megascale", range(6))
    write("multi", (7,))
    write("protherm", (8,))
    rows = [m for n in range(6) for m in variants(structure(n), 12, 1, n, f"g{n}")]
    table("megascale_ddg.csv.gz", rows)
    several = [m for n in (7, 8) for m in variants(structure(n), 9, 3, n, f"h{n}")]
    table("multi_mutants.csv.gz", several)
    return tmp_path, rows, several


def test_rows_are_read_with_their_backbones(data):
    folder, rows, several = data
    structures, found = stability_data.scans(folder)
    assert sorted(structures) == [f"{n}ABC_A" for n in range(6)]
    assert found == rows
    structures, found = stability_data.multiples(folder)
    assert sorted(structures) == ["7ABC_A", "8ABC_A"]
    assert found == several


def test_rows_that_do_not_fit_their_backbone_are_refused(data):
    path = data[0] / "stability" / "megascale_ddg.csv.gz"
    wild = sequence(0)[0]
    other = next(a for a in PROTEIN.letters if a != wild)
    with gzip.open(path, "wt") as file:
        file.write(f"pdb,mutations,ddg_kcal_mol,group\n0ABC,A:{other}3{wild},1.0,g\n")
    with pytest.raises(ValueError, match="does not fit the backbone's letter"):
        stability_data.scans(data[0])


def test_training_is_deterministic_and_its_files_make_rewards(data, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    # the network that is shipped, as if it were the published one
    monkeypatch.setattr(train_ddg, "load_checkpoint", lambda name: ddg.network())
    for folder in ("one", "two"):
        train_ddg.train(data[0], tmp_path / folder)
    for name in ("ddg-mini", "ddg-mini-b"):
        first = (tmp_path / "one" / f"{name}.safetensors").read_bytes()
        assert first == (tmp_path / "two" / f"{name}.safetensors").read_bytes()
        head = ddg.read_weights(tmp_path / "one" / f"{name}.safetensors")
        reward = ddg.of_structure(name, head, structure(0))
        wild = Designs.of([sequence(0)], PROTEIN)
        assert float(reward(wild)) == 0.0
    assert "network.W_s.weight" in ddg.read_weights(tmp_path / "one" / "ddg-mini.safetensors")


def test_nothing_to_do_is_an_error(data):
    with pytest.raises(SystemExit):
        train_ddg.main(["--data", str(data[0])])
