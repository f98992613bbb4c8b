"""The laboratory in the computer (examples/benchmarks/stabilize.py): who judges what, and how."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from seqalign.files.structure import demo_backbone
from seqalign.rewards.measured import Measured, Row

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "stabilize.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("stabilize", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules["stabilize"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["stabilize"]


def laboratory(script, proteins=6, mutants=14, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"P{n}" for n in range(proteins)]
    values = rng.normal(-1, 1, (proteins, mutants))
    rows = [Row(p, "A", 1, float(v)) for p, some in zip(names, values, strict=True) for v in some]
    homes = dict.fromkeys(names, demo_backbone())
    measured = Measured("ddg", tuple(rows), homes, dict.fromkeys(names, "A"), (), ())
    said = {script.ORACLE: rng.normal(size=len(rows)), script.MPNN: rng.normal(size=len(rows))}
    return script.Laboratory(measured, {p: f"g{n // 2}" for n, p in enumerate(names)}, said)


@pytest.mark.parametrize("k", [1, 5, 7])
def test_each_judge_orders_its_own_best(script, k):
    lab = laboratory(script)
    names, means, above = script.ordered(lab, k)
    assert names == [f"P{n}" for n in range(6)]
    for n, name in enumerate(names):
        rows = [i for i, row in enumerate(lab.measured.rows) if row.protein == name]
        truth = {i: lab.measured.rows[i].measured for i in rows}

        def rank(judge, rows=rows):
            order = sorted(rows, key=lambda i: lab.said[judge][i])
            return {i: place for place, i in enumerate(order)}

        oracle, mpnn = rank(script.ORACLE), rank(script.MPNN)
        both = {i: oracle[i] + mpnn[i] for i in rows}
        for judge, by in ((script.ORACLE, oracle), (script.MPNN, mpnn), (script.BOTH, both),
                          (script.BEST, truth), (script.CHANCE, None)):  # fmt: skip
            best = rows if by is None else sorted(rows, key=lambda i: (-by[i], i))[:k]
            assert means[judge][n] == pytest.approx(np.mean([truth[i] for i in best])), judge
            assert above[judge][n] == pytest.approx(np.mean([truth[i] > 0 for i in best])), judge
    assert all((means[script.BEST] >= means[judge] - 1e-12).all() for judge in means)
    assert script.ordered(lab, 8)[0] == []


def test_the_interval_draws_whole_groups(script):
    values = np.array([0.0, 0.0, 3.0, 3.0])
    # alike within groups: two groups leave the extremes, four would nearly never
    assert script.interval(values, ["a", "a", "b", "b"]) == (0.0, 3.0)
    low, high = script.interval(np.full(40, 0.5), [str(n) for n in range(40)])
    assert low == high == 0.5
    rng = np.random.default_rng(1)
    alone = rng.normal(size=100)
    low, high = script.interval(alone, [str(n) for n in range(100)])
    half = 1.96 * alone.std() / 10
    assert low == pytest.approx(alone.mean() - half, abs=0.03)
    assert high == pytest.approx(alone.mean() + half, abs=0.03)


def test_no_oracle_judges_what_it_learned_from(script):
    lab = laboratory(script, proteins=4)
    chain = demo_backbone().numbering.chains[0]
    first, second = script.TWINS
    seen = dict(
        zip(("P0", "P1", "P2", "P3"), ({first}, {second}, {first, second}, set()), strict=True)
    )
    judges = script.unseen(lab.measured, {f"{p}_{chain}": who for p, who in seen.items()})
    assert judges == {"P0": second, "P1": first, "P3": first}
    assert set(script.unseen(lab.measured, None).values()) == {first}


def test_without_data_it_skips_and_says_so(script, capsys):
    script.main()
    assert "skipped" in capsys.readouterr().out
