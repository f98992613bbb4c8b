"""Rewards: the algebra is arithmetic, wrappers never change a score, and a broken reward is named
with its place.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqalign.core.callables import Command, as_reward, function
from seqalign.core.objective import Reward, RewardError, ZScore, calibrate, evaluate, terms, walk
from seqalign.core.process import Designs
from seqalign.core.sequence import Alphabet
from seqalign.core.wrappers import Cached, Chunked, Counted

ABC = Alphabet("ABC")
WORDS = ["AAB", "BCA", "CCC", "AAB", "ABC", "CAB"]


class Table(Reward):
    """Letters at a price per position: defined on letters and on their probabilities."""

    differentiable = True
    unit = "kcal/mol"

    def __init__(self, seed: int, name: str = "table") -> None:
        gen = torch.Generator().manual_seed(seed)
        self.table = torch.randn(3, 3, generator=gen, dtype=torch.float64)
        self.name, self.asked = name, []

    def __call__(self, designs: Designs) -> Tensor:
        self.asked.extend(s for row in designs.sequences for s in row)
        return self.relaxed(torch.nn.functional.one_hot(designs.x, 3).double())

    def relaxed(self, x: Tensor) -> Tensor:
        return (x * self.table).sum((-1, -2))


def designs(rows: int = 2) -> Designs:
    return Designs(ABC.encode(WORDS).reshape(rows, -1, 3), ABC)


def soft(rows: int = 2) -> Tensor:
    return torch.nn.functional.one_hot(designs(rows).x, 3).double()


A, B_ = Table(1, "a"), Table(2, "b")
a, b = A(designs()), B_(designs())


@pytest.mark.parametrize(
    ("made", "by_hand"),
    [
        (A + B_, a + b),
        (2.0 * A, 2 * a),
        (A * 2, 2 * a),
        (1.0 * A - 0.3 * B_, a - 0.3 * b),
        (A - B_, a - b),
        (-A, -a),
        (-(A - 2 * B_), 2 * b - a),
        (3 * (A + 2 * (B_ - A)) + B_, 3 * (a + 2 * (b - a)) + b),
        (A - (B_ - A), 2 * a - b),
        (A.clip(-0.5, 0.5), a.clamp(-0.5, 0.5)),
        (A.clip(lo=0.0) + B_.clip(hi=0.0), a.clamp(min=0) + b.clamp(max=0)),
        (A.zscore(1.0, 2.0), (a - 1) / 2),
        (2 * A.zscore(1.0, 2.0).clip(-1, 1) - B_, 2 * ((a - 1) / 2).clamp(-1, 1) - b),
        (A.holdout(), a),
        (Cached(A + B_), a + b),
        (Chunked(A - B_, 2), a - b),
    ],
)
def test_the_algebra_is_arithmetic_on_designs_and_on_relaxed_designs(made, by_hand):
    assert torch.allclose(evaluate(made, designs()), by_hand, atol=1e-12)
    assert made.differentiable
    x = soft().requires_grad_()
    assert torch.allclose(made.relaxed(x), by_hand, atol=1e-12)
    (grad,) = torch.autograd.grad(made.relaxed(x).sum(), x)
    assert grad.shape == x.shape


def test_terms_and_name_are_those_of_the_formula():
    objective = 2 * (A - 0.5 * B_) + A
    assert terms(objective) == ((2.0, A), (-1.0, B_), (1.0, A))
    assert objective.name == "2*a - b + a"
    assert terms(A) == ((1.0, A),)


def test_a_gradient_is_per_particle():
    """The gradient of a sum over particles is each particle's own: nothing is averaged over the
    batch.
    """
    x = soft().requires_grad_()
    (whole,) = torch.autograd.grad((A - 2 * B_).relaxed(x).sum(), x)
    assert torch.allclose(whole, (A.table - 2 * B_.table).expand_as(whole))


def test_differentiable_flags():
    plain = function(lambda s: [0.0] * len(s), "plain")
    for reward in (plain, plain + A, plain.clip(0, 1), Cached(plain), Counted(plain), 2 * plain):
        assert not reward.differentiable
    for reward in (A, A + B_, A.clip(0, 1), A.zscore(0, 1), Cached(A), Counted(A), Chunked(A, 1)):
        assert reward.differentiable
    with pytest.raises(TypeError, match="'plain' has no gradient"):
        plain.relaxed(soft())
    with pytest.raises(TypeError, match="'plain' has no gradient"):
        (A + plain).relaxed(soft())


def test_wrappers_keep_name_unit_and_cost():
    for reward in (A.clip(0, 1), A.zscore(0, 1), Cached(A), Counted(A), Chunked(A, 2), A.holdout()):
        assert (reward.name, reward.unit, reward.cost) == ("a", "kcal/mol", 0.0)
    assert A.holdout().role == Cached(A.holdout()).role == "holdout"
    assert Counted(A).role == "guide"


# constants fixed before the run -------------------------------------------------------------------


def test_calibrate_freezes_every_open_zscore():
    objective = 2 * A.zscore() - Cached(B_.clip(-1, 1).zscore()) + A.zscore(0.0, 1.0).clip(-1, 1)
    fixed = calibrate(objective, designs())
    z = (a - a.mean()) / a.std()
    c = b.clamp(-1, 1)
    want = 2 * z - (c - c.mean()) / c.std() + a.clamp(-1, 1)
    assert torch.allclose(evaluate(fixed, designs()), want)
    # other designs do not move the constants
    one = designs()[0:1, 0:1]
    assert torch.allclose(evaluate(fixed, one), want[:1, :1])
    with pytest.raises(ValueError, match="no constants yet"):
        evaluate(objective, designs())


def test_calibrate_inside_wrappers():
    for wrap in (Cached, Counted, lambda r: Chunked(r, 2), lambda r: r.clip(-9, 9)):
        fixed = calibrate(wrap(A.zscore()), designs())
        assert torch.allclose(evaluate(fixed, designs()), (a - a.mean()) / a.std())


def test_a_formula_is_a_tree_that_can_be_walked_and_rebuilt():
    inner = Cached(A)
    formula = 2 * Counted(inner.clip(-1, 1)) - Chunked(B_, 2).holdout()
    assert [type(r).__name__ for r in walk(formula)] == [
        "Sum", "Counted", "Clip", "Cached", "Table", "Holdout", "Chunked", "Table",
    ]  # fmt: skip

    def swap(reward):
        return B_ if reward is A else reward.map(swap)

    same = formula.map(lambda r: r)
    assert same is formula, "nothing changed, so memories and counts stay"
    evaluate(formula, designs())
    swapped = swap(formula)
    assert [w for w, _ in terms(swapped)] == [2.0, -1.0]
    assert torch.allclose(evaluate(swapped, designs()), 2 * b.clamp(-1, 1) - b)
    # what A said is not taken for what B says, and A keeps its memory
    assert len(inner.memory) == len(set(WORDS))
    assert torch.allclose(evaluate(formula, designs()), 2 * a.clamp(-1, 1) - b)


def test_calibrate_fixes_a_zscore_inside_a_zscore():
    fixed = calibrate(A.zscore().clip(-1, 1).zscore(), designs())
    c = ((a - a.mean()) / a.std()).clamp(-1, 1)
    assert torch.allclose(evaluate(fixed, designs()), (c - c.mean()) / c.std())
    assert not any(isinstance(r, ZScore) and r.open for r in walk(fixed))
    with pytest.raises(ValueError, match="mean and std, or neither"):
        A.zscore(mean=1.0)


def test_no_bound_lifts_a_rejection_relaxed_or_not():
    class Rejecting(Table):
        def relaxed(self, x):
            return torch.full(x.shape[:2], -torch.inf, dtype=torch.float64)

    assert torch.isneginf(Rejecting(0).clip(0, 1).relaxed(soft())).all()


def test_a_function_is_a_reward_and_a_reward_stays_one():
    assert as_reward(A) is A
    counted = as_reward(lambda words: [float(w.count("A")) for w in words])
    want = torch.tensor([[2, 1, 0], [2, 1, 1]], dtype=torch.float64)
    assert torch.equal(evaluate(counted, designs()), want)
    for wrong in (3, Table):
        with pytest.raises(TypeError, match="no reward: give a Reward, or a function"):
            as_reward(wrong)


def test_calibrate_ignores_rejected_designs_and_refuses_a_constant():
    odd = function(lambda s: [-math.inf if w[0] == "C" else float(len(set(w))) for w in s], "odd")
    fixed = calibrate(odd.zscore(), designs())
    r = evaluate(odd, designs())
    live = r[torch.isfinite(r)]
    assert abs(fixed.mean - float(live.mean())) < 1e-12
    assert abs(fixed.std - float(live.std())) < 1e-12
    with pytest.raises(ValueError, match="no scale"):
        calibrate(function(lambda s: [1.0] * len(s)).zscore(), designs())
    with pytest.raises(ValueError, match="std of 'a' must be > 0"):
        A.zscore(0.0, 0.0)
    with pytest.raises(ValueError, match="is empty"):
        A.clip(1, 0)


# failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_named_with_island_particle_and_design(bad):
    reward = function(lambda s: [bad if w == "CAB" else 1.0 for w in s], "stability")
    with pytest.raises(RewardError, match=r"'stability' is .* at island 1, particle 2 \(CAB\)"):
        evaluate(reward, designs())
    # inside a sum the term is named, not the formula
    with pytest.raises(RewardError, match="Reward 'stability'"):
        evaluate(A + 2 * reward, designs())


def test_nan_is_never_a_score():
    """A NaN must stop the run or reject the design; 0 would be an invented measurement."""
    broken = function(lambda s: [math.nan] * len(s), "broken")
    for reward in (broken, broken.clip(0, 1), 2 * broken, Cached(broken), Chunked(broken, 1)):
        with pytest.raises(RewardError, match="nan"):
            evaluate(reward, designs())


def test_reject_means_minus_infinity_for_the_bad_design_only():
    def fragile(words):
        if any(w == "CCC" for w in words):
            raise RuntimeError("no structure")
        return [float(w.count("A")) for w in words]

    want = torch.tensor([[2, 1, -math.inf], [2, 1, 1]], dtype=torch.float64)
    assert torch.equal(evaluate(function(fragile, on_failure="reject"), designs()), want)
    nans = function(
        lambda s: [math.nan if w == "CCC" else float(w.count("A")) for w in s], on_failure="reject"
    )
    assert torch.equal(evaluate(nans, designs()), want)
    with pytest.raises(RewardError, match="'fragile' failed on 6 designs: no structure"):
        evaluate(function(fragile), designs())


@pytest.mark.parametrize("weight", [2.0, 0.0, -0.5])
def test_a_rejected_design_stays_rejected_whatever_the_formula(weight):
    reject = function(lambda s: [-math.inf if w == "CCC" else 1.0 for w in s])
    for objective in (
        A + weight * reject,
        weight * reject - B_,
        A + weight * reject.clip(-5, 5),
        A + weight * reject.zscore(0.0, 1.0),
        Cached(A + weight * reject),
    ):
        r = evaluate(objective, designs())
        assert torch.isneginf(r).nonzero().tolist() == [[0, 2]]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda s: [1.0], r"returned \(1,\) values for 6 designs"),
        (lambda s: [[1.0]] * len(s), "return a flat list"),
        (lambda s: 1.0, r"returned \(\) values"),
        (lambda s: ["x"] * len(s), "failed on 6 designs"),
    ],
)
def test_the_wrong_number_of_values_is_refused(fn, message):
    with pytest.raises(RewardError, match=message):
        evaluate(function(fn), designs())


def test_a_wrong_shape_or_type_is_refused():
    class Wrong(Table):
        def __init__(self, answer) -> None:
            super().__init__(0, "wrong")
            self.answer = answer

        def __call__(self, designs):
            return self.answer

    with pytest.raises(RewardError, match=r"shape \(6,\) for designs of shape \(2, 3\)"):
        evaluate(Wrong(torch.zeros(6)), designs())
    with pytest.raises(RewardError, match="returned list"):
        evaluate(Wrong([0.0]), designs())


def test_functions_of_continuous_designs_see_tensors():
    seen = []
    reward = function(lambda x: seen.append(x.shape) or x.sum((-1, -2)))
    x = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(evaluate(reward, Designs(x)), x.sum((-1, -2)).double())
    assert seen == [torch.Size([6, 2, 2])]


# wrappers -----------------------------------------------------------------------------------------


def test_identical_designs_are_scored_once_ever():
    inner = Table(3)
    cached = Cached(inner)
    first = evaluate(cached, designs())
    assert sorted(inner.asked) == sorted(set(WORDS))
    assert torch.equal(first, evaluate(Table(3), designs()))
    again = evaluate(cached, designs(3))
    assert len(inner.asked) == len(set(WORDS))
    assert torch.equal(again.flatten(), first.flatten())
    evaluate(cached, Designs.of(["AAA", "AAB"], ABC))
    assert inner.asked[-1] == "AAA"
    assert len(inner.asked) == len(set(WORDS)) + 1


def test_the_event_mask_is_part_of_a_design_and_padding_is_not():
    seen = []

    def count(words):
        seen.extend(words)
        return [float(len(w)) + 0.1 * w.count("A") for w in words]

    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, False]])
    x = ABC.encode(["AAB", "AAA", "AAA", "AAC", "AAA", "ABA"]).reshape(3, 2, 3)
    reward = Cached(function(count))
    r = evaluate(reward, Designs(x, ABC, mask))
    want = [[3.2, 3.3], [2.2, 2.2], [2.2, 2.1]]
    assert torch.allclose(r, torch.tensor(want, dtype=torch.float64))
    assert sorted(seen) == ["AA", "AAA", "AAB", "AB"]
    assert torch.equal(evaluate(reward, Designs(x, ABC, mask)), r)
    assert len(seen) == 4


@settings(max_examples=40, deadline=None)
@given(
    words=st.lists(st.text(alphabet="ABC", min_size=3, max_size=3), min_size=6, max_size=6),
    size=st.integers(1, 4),
)
def test_wrappers_never_change_a_score(words, size):
    x = Designs(ABC.encode(words).reshape(2, 3, 3), ABC)
    want = evaluate(A - B_, x)
    for wrap in (
        Cached(A - B_),
        Counted(A - B_),
        Chunked(A - B_, size),
        Cached(Chunked(A - B_, size)),
    ):
        assert torch.allclose(evaluate(wrap, x), want)
        assert torch.allclose(evaluate(wrap, x), want)


def test_counted_counts_designs_and_relaxed_designs():
    counted = Counted(A)
    evaluate(counted, designs())
    counted.relaxed(soft())
    evaluate(counted, designs()[0:1, 0:2])
    assert (counted.calls, counted.relaxed_calls) == (14, 6)
    inner = Counted(A)
    evaluate(Cached(inner), designs())
    assert inner.calls == 5


def test_chunked_never_mixes_islands_and_never_exceeds_its_size():
    shapes = []

    class Spy(Table):
        def __call__(self, designs):
            shapes.append(designs.shape)
            return super().__call__(designs)

        def relaxed(self, x):
            shapes.append(tuple(x.shape[:2]))
            return super().relaxed(x)

    wide = Designs(ABC.encode(["ABC"] * 10).reshape(2, 5, 3), ABC)
    evaluate(Chunked(Spy(0), 2), wide)
    assert {s for s in shapes if s[1] > 2} == set()
    assert sum(n * k for n, k in shapes[: len(shapes)]) >= 10
    assert {n for n, _ in shapes} == {1}
    with pytest.raises(ValueError, match=">= 1"):
        Chunked(A, 0)


# programs -----------------------------------------------------------------------------------------


def script(folder: Path, body: str) -> str:
    path = folder / "score.sh"
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return f"{path} {{fasta}}"


def test_a_command_reads_a_fasta_and_prints_one_number_per_line(tmp_path):
    body = "grep -v '>' \"$1\" | while read -r s; do printf '%s' \"$s\" | tr -cd A | wc -c; done\n"
    reward = Command(script(tmp_path, body), "a-count", unit="letters")
    assert torch.equal(
        evaluate(reward, designs()), torch.tensor([[2, 1, 0], [2, 1, 1]], dtype=torch.float64)
    )
    assert reward.unit == "letters"


def test_a_command_may_use_quotes_and_python(tmp_path):
    code = "import sys; print(*[len(l) - 1 for l in open(sys.argv[1]) if l[0] != '>'])"
    reward = Command(f'{sys.executable} -c "{code}" {{fasta}}')
    assert torch.equal(evaluate(reward, designs()), torch.full((2, 3), 3.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo broken >&2; exit 3\n", "exited 3: broken"),
        ("echo 1\n", "printed 1 numbers for 6 sequences"),
        ("echo high\n", "printed something else"),
        ("for i in 1 2 3 4 5 6; do echo nan; done\n", "is nan at island 0, particle 0"),
    ],
)
def test_a_command_that_fails_is_named(tmp_path, body, message):
    with pytest.raises(RewardError, match=f"'mine'.*{message}"):
        evaluate(Command(script(tmp_path, body), "mine"), designs())


def test_a_command_that_does_not_exist_or_finish_is_named(tmp_path):
    with pytest.raises(RewardError, match="did not run"):
        evaluate(Command("no-such-program-here {fasta}"), designs())
    with pytest.raises(RewardError, match="did not run"):
        evaluate(Command(script(tmp_path, "exec sleep 20\n"), timeout=0.2), designs())
    with pytest.raises(ValueError, match="must contain"):
        Command("score designs.fasta")
