"""Hard constraints: the look-ahead h and its marginals equal enumeration, and no particle ever
meets a dead end.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from exact import AKD, CONSTRAINED, PairReward, masked
from exact import space as made
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seqalign.core.discrete import (
    Categorical,
    CategoricalPosterior,
    MaskedProcess,
    UniformProcess,
)
from seqalign.core.sequence import PROTEIN, Alphabet
from seqalign.core.smc import SMC
from seqalign.core.streams import Streams
from seqalign.files.numbering import Numbering
from seqalign.methods.das import DAS
from seqalign.methods.guidance import Guidance
from seqalign.methods.smc import PlainSMC
from seqalign.methods.tds import TDS
from seqalign.space.constraint import ConstraintError
from seqalign.space.impossible import hoped
from seqalign.space.max_mutations import MaxMutations
from seqalign.space.space import DesignSpace

ABC = Alphabet("ABC")
V = 3


# the mini-language of positions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ()),
        ("3", (3,)),
        ("1-3, 7", (1, 2, 3, 7)),
        (" 7,1 - 2 , 7 ", (1, 2, 7)),
        ("A2, B4-B5, A6-7", (2, 4, 5, 6, 7)),
        ("1-5, not 3", (1, 2, 4, 5)),
        ("not 2-7", (1, 8)),
        ("NOT 1, not 8", (2, 3, 4, 5, 6, 7)),
        ([4, 2], (2, 4)),
        ((), ()),
    ],
)
def test_positions_reads_its_language(text, answer):
    assert Numbering.plain(8).positions(text) == answer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "cannot read 'x'"),
        ("1-", "cannot read"),
        ("-3", "outside positions 1-8"),
        ("1.5", "cannot read"),
        ("not", "cannot read"),
        ("notice", "cannot read"),
        ("0", "outside positions 1-8"),
        ("9", "outside positions 1-8"),
        ("5-3", "Did you mean 3-5"),
        ([0], "outside"),
        ([-1], "outside"),
    ],
)
def test_positions_says_what_is_wrong_and_where(text, message):
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        Numbering.plain(8).positions(text, "here")


@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(st.text(max_size=30), st.text(alphabet="0123456789-, notNOTA", max_size=30)),
    length=st.integers(1, 40),
)
@example(text="9" * 5000, length=5)
@example(text="٣-５", length=9)
def test_any_text_is_read_or_refused_with_a_value_error(text, length):
    try:
        answer = Numbering.plain(length).positions(text)
    except ValueError:
        return
    assert list(answer) == sorted(set(answer))
    assert all(1 <= i <= length for i in answer)


# building -----------------------------------------------------------------------------------------


def test_build_reads_every_field():
    space = DesignSpace.build(
        ABC,
        5,
        wild_type="ABCAB",
        fix={2: "C"},
        design="1-4",
        omit="A",
        residues={"3": {"allow": "AC"}, "4": {"omit": "B"}},
        max_mutations=4,
    )
    # 2 is fixed by letter, 5 lies outside the design, omit A holds everywhere that is free
    assert space.fixed == "_C__B"
    assert space.allowed == ("BC", "C", "C", "C", "B")
    assert space.free == 3
    assert space.length == 5
    assert space.violations("BCCCB") == []


def test_fix_wins_over_omit_and_keeps_the_wild_type():
    space = DesignSpace.build(ABC, 3, wild_type="AAB", fix="1-2", omit="A")
    assert space.fixed == "AA_"
    assert space.violations("AAB") == []
    assert space.violations("AAA") == ["position 3 is 'A', allowed are 'BC'"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fix": "1"}, "no wild_type"),
        ({"design": "1"}, "no wild_type"),
        ({"wild_type": "AB"}, "has 2 letters, the model designs 3"),
        ({"wild_type": "AXB"}, "wild_type position 2 is 'X'"),
        ({"fix": {2: "X"}}, "fixed position 2 is 'X'"),
        ({"fix": {4: "A"}}, "outside positions 1-3"),
        ({"fix": {2: "AB"}}, "."),
        ({"omit": "Z"}, "'Z' is not one of"),
        ({"omit": "ABC"}, "no letter is allowed at position 1"),
        ({"residues": {"2": {"allow": "Z"}}}, "'Z' at '2' is not one of"),
        ({"residues": {"2": {"allow": ""}}}, "no letter is allowed at position 2"),
        ({"residues": {"9": {"allow": "A"}}}, "residues: '9' is outside"),
        ({"max_mutations": 1}, "needs a wild_type"),
        ({"max_mutations": -1, "wild_type": "AAA"}, ">= 0"),
        ({"max_mutations": 1, "wild_type": "AAB", "omit": "A"}, "smallest feasible value is 2"),
        (
            {"max_mutations": 0, "wild_type": "AAB", "fix": {3: "A"}},
            r"\(3\); the smallest feasible value is 1",
        ),
    ],
)
def test_infeasible_spaces_are_refused_with_the_place_and_the_cure(options, message):
    with pytest.raises(ValueError, match=message):
        DesignSpace.build(ABC, 3, **options)


def test_direct_construction_is_checked_too():
    with pytest.raises(ConstraintError, match="fixed has 3 letters, the model designs 2"):
        DesignSpace(ABC, 2, fixed="___")
    with pytest.raises(ConstraintError, match="numbering names 3 positions"):
        DesignSpace(ABC, 2, numbering=Numbering.plain(3))
    with pytest.raises(ValueError, match="discount must be in"):
        DesignSpace(ABC, 2, discount=1)


# membership ---------------------------------------------------------------------------------------


@st.composite
def spaces(draw, length: int | None = None, budget: bool | None = None):
    n = draw(st.integers(1, 5)) if length is None else length
    wild = "".join(draw(st.lists(st.sampled_from("ABC"), min_size=n, max_size=n)))
    allowed = tuple(
        "".join(sorted(draw(st.sets(st.sampled_from("ABC"), min_size=1)))) for _ in range(n)
    )
    fixed = "".join(
        draw(st.sampled_from(a)) if draw(st.integers(0, 4)) == 0 else "_" for a in allowed
    )
    use = draw(st.booleans()) if budget is None else budget
    options = [f if f != "_" else a for f, a in zip(fixed, allowed, strict=True)]
    forced = sum(w not in o for w, o in zip(wild, options, strict=True))
    limit = draw(st.integers(forced, n)) if use else None
    return made(fixed, allowed, wild, limit)


def words(length: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=length)))


@settings(max_examples=60, deadline=None)
@given(space=spaces())
def test_contains_and_violations_agree(space):
    every = words(space.length)
    inside = space.contains(every[None])[0]
    assert bool(inside.any())
    for word, ok in zip(ABC.decode(every), inside.tolist(), strict=True):
        assert (space.violations(word) == []) == ok
        by_hand = all(
            a in o and f in ("_", a)
            for a, o, f in zip(word, space.allowed, space.fixed, strict=True)
        )
        changes = sum(a != w for a, w in zip(word, space.wild_type, strict=True))
        budgets = [c.most for c in space.constraints if isinstance(c, MaxMutations)]
        by_hand = by_hand and all(changes <= most for most in budgets)
        assert by_hand == ok


def test_violations_are_sentences():
    space = made("A__", ("A", "ABC", "AB"), "AAA", 1)
    assert space.violations("BBC") == [
        "position 1 is 'B', allowed are 'A'",
        "position 3 is 'C', allowed are 'AB'",
        "3 mutations, at most 1 are allowed",
    ]
    assert space.violations("AB") == ["has 2 letters, the design space 3"]


def test_start_reveals_the_fixed_letters_only():
    space = made("_B_", ("ABC",) * 3)
    x = torch.full((2, 4, 3), ABC.mask)
    assert ABC.decode(space.start(x)[0])[0] == "_B_"
    x[..., 1] = 2
    assert bool((space.start(x)[..., 1] == 2).all())


# the look-ahead -----------------------------------------------------------------------------------


def brute(space: DesignSpace, log_pi: Tensor, x: Tensor, unknown: Tensor) -> tuple[float, Tensor]:
    """Return P(x_0 in A | x) and the marginals given A, by enumeration."""
    every = words(space.length)
    every = every[space.contains(every[None])[0]]
    agrees = ((every == x) | unknown).all(-1)
    p = torch.exp(log_pi[torch.arange(space.length), every]).masked_fill(~unknown, 1.0).prod(-1)
    p = p * agrees
    total = float(p.sum())
    hot = torch.nn.functional.one_hot(every, V).double()
    return total, (p[:, None, None] * hot).sum(0) / max(total, 1e-320)


@settings(max_examples=80, deadline=None)
@given(
    space=spaces(),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.5, 3.0, 30.0]),
    zeros=st.booleans(),
)
def test_condition_equals_enumeration(space, seed, scale, zeros):
    n, k = space.length, 6
    gen = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(1, k, n, V, generator=gen, dtype=torch.float64)
    if zeros:
        dead = torch.rand(1, k, n, V, generator=gen) < 0.3
        dead[..., 0] &= ~dead.all(-1)
        logits = torch.where(dead, -torch.inf, logits)
    log_pi = torch.log_softmax(logits, -1)
    x = torch.randint(0, V, (1, k, n), generator=gen)
    unknown = torch.rand(1, k, n, generator=gen) < 0.6
    x = torch.where(unknown, V, x)
    hot = torch.nn.functional.one_hot(x.clamp(max=V - 1), V).bool()
    point = torch.where(hot, 0.0, -torch.inf).double()
    log_pi = torch.where(unknown[..., None], log_pi, point)
    log_h, guide = space.condition(CategoricalPosterior(log_pi), x, unknown)
    # h is that of the letters that may come later; what is impossible now is not drawn now
    later, never = hoped(log_pi, unknown)
    for j in range(k):
        p, marginals = brute(space, later[0, j], x[0, j], unknown[0, j])
        if never is not None:
            now = marginals * ~never[0, j]
            mass = now.sum(-1, keepdim=True)
            marginals = torch.where(mass > 0, now / mass, marginals)
        if p == 0:
            assert float(log_h[0, j]) == -math.inf
            assert torch.equal(guide.log_probs[0, j], log_pi[0, j])
        else:
            assert abs(float(log_h[0, j]) - math.log(p)) < 1e-9
            assert torch.allclose(guide.mean[0, j], marginals, atol=1e-10)


@settings(max_examples=80, deadline=None)
@given(
    space=spaces(),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.5, 3.0, 30.0, 300.0]),
    single=st.booleans(),
    data=st.data(),
)
def test_open_positions_alone_are_conditioned_as_all(space, seed, scale, single, data):
    n, k = space.length, 6
    gen = torch.Generator().manual_seed(seed)
    some = data.draw(st.integers(1, n))
    order = torch.rand(1, k, n, generator=gen).argsort(-1)
    x = torch.randint(0, V, (1, k, n), generator=gen).scatter(-1, order[..., :some], V)
    logits = scale * torch.randn(1, k, n, V, generator=gen, dtype=torch.float64)
    logits = logits.float() if single else logits
    law = MaskedProcess(lambda x, t: logits, ABC, n, n).posterior(x, 1.0)
    assert law.columns is not None
    log_h, guide = space.condition(law, x, x == V)
    want_h, want = space.condition(law.whole(), x, x == V)
    near = {"atol": 1e-5, "rtol": 1e-4} if single else {"atol": 1e-10, "rtol": 1e-9}
    assert torch.allclose(log_h, want_h, **near)
    assert torch.allclose(guide.mean, want.mean, **near)
    # what one allows the other does, and a drawn letter has a probability in both
    open_ = x == V
    possible = torch.isfinite(guide.log_probs[open_]), torch.isfinite(want.log_probs[open_])
    assert torch.equal(*possible)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_budget_of_a_whole_domain_is_conditioned_in_plain_numbers(dtype):
    """Eighty positions, twenty letters: the fast way is taken, and is the slow one to rounding."""
    length, letters = 80, PROTEIN.letters
    gen = torch.Generator().manual_seed(0)
    wild = "".join(letters[i] for i in torch.randint(0, 20, (length,), generator=gen))
    space = DesignSpace.build(PROTEIN, length, wild_type=wild, fix="1-5", max_mutations=8)
    logits = 2 * torch.randn(2, 7, length, 20, generator=gen, dtype=torch.float64).to(dtype)
    process = MaskedProcess(lambda x, t: logits, PROTEIN, length, length)
    tokens = PROTEIN.encode([wild])[0]
    for some in (75, 30, 8, 1):
        order = 5 + torch.rand(2, 7, 75, generator=gen).argsort(-1)
        x = tokens.expand(2, 7, length).scatter(-1, order[..., :some], PROTEIN.mask)
        # particle 1 has spent its budget as far as there are known positions to spend it on
        spent = order[:, 1:2, some : some + 8]
        x[:, 1:2] = x[:, 1:2].scatter(-1, spent, (tokens[spent] + 1) % 20)
        law = process.posterior(x, 1.0)
        log_h, guide = space.condition(law, x, x == PROTEIN.mask)
        want_h, want = space.condition(law.whole(), x, x == PROTEIN.mask)
        assert guide.columns is not None
        close = 2e-5 if dtype == torch.float32 else 1e-10
        assert torch.allclose(log_h, want_h, atol=close, rtol=0)
        assert torch.allclose(guide.mean, want.mean, atol=close, rtol=0)
        logs, others = guide.log_probs, want.log_probs
        assert torch.equal(torch.isfinite(logs), torch.isfinite(others))
        assert torch.allclose(logs.exp(), guide.mean, atol=close, rtol=0)


def test_condition_without_constraints_is_the_identity():
    log_pi = torch.log_softmax(torch.randn(1, 2, 4, V, dtype=torch.float64), -1)
    x, unknown = torch.full((1, 2, 4), V), torch.ones(1, 2, 4, dtype=torch.bool)
    for space in (
        made("____", ("ABC",) * 4),
        made("____", ("ABC",) * 4, "ABCA", 4),
    ):
        log_h, guide = space.condition(CategoricalPosterior(log_pi), x, unknown)
        assert torch.allclose(log_h, torch.zeros(1, 2).double(), atol=1e-12)
        assert torch.allclose(guide.mean, log_pi.exp(), atol=1e-12)


def reference(keep: np.ndarray, change: np.ndarray, left: int) -> tuple[float, np.ndarray]:
    """Return log P(changes <= left) and log P(keep_i | ...) by forward and backward sums in log
    space.
    """
    n = len(keep)
    forward = np.full((n + 1, left + 1), -np.inf)
    forward[0, 0] = 0.0
    backward = np.full((n + 1, left + 1), -np.inf)
    backward[n, 0] = 0.0

    def extend(row: np.ndarray, i: int) -> np.ndarray:
        shifted = np.concatenate(([-np.inf], row[:-1]))
        return np.logaddexp(row + keep[i], shifted + change[i])

    for i in range(n):
        forward[i + 1] = extend(forward[i], i)
        backward[n - 1 - i] = extend(backward[n - i], n - 1 - i)
    log_p = np.logaddexp.reduce(forward[n])
    tails = np.logaddexp.accumulate(backward, axis=1)
    given = np.array(
        [keep[i] + np.logaddexp.reduce(forward[i] + tails[i + 1][::-1]) for i in range(n)]
    )
    return float(log_p), given - log_p


@pytest.mark.parametrize("budget", [0, 1, 7, 100, 800, 1000])
@pytest.mark.parametrize("kind", ["flat", "sharp", "against", "mixed"])
def test_a_thousand_positions_neither_underflow_nor_cancel(budget, kind):
    length = 1000
    rng = np.random.default_rng(budget)
    keep = {
        "flat": np.full(length, np.log(0.05)),
        "sharp": np.log1p(-rng.uniform(0, 1e-3, length)),
        "against": np.full(length, -200 * np.log(10.0)),
        "mixed": np.log(rng.uniform(0, 1, length) ** rng.choice([0.1, 1, 30], length)),
    }[kind]
    change = np.log(-np.expm1(keep))
    log_pi = torch.tensor(np.stack((keep, change + np.log(0.7), change + np.log(0.3)), -1))
    space = made("_" * length, ("ABC",) * length, "A" * length, budget)
    log_pi = log_pi.expand(1, 1, length, V)
    x = torch.full((1, 1, length), V)
    log_h, guide = space.condition(CategoricalPosterior(log_pi), x, x == V)
    log_p, given = reference(keep, change, budget)
    assert abs(float(log_h) - log_p) < 1e-8 * max(1.0, abs(log_p))
    assert np.allclose(guide.mean[0, 0, :, 0].numpy(), np.exp(given), atol=1e-7)
    assert torch.allclose(guide.mean.sum(-1), torch.ones(1, 1, length).double(), atol=1e-7)


def test_probabilities_of_1e_minus_200_and_exact_zeros():
    tiny = -200 * math.log(10.0)
    log_pi = torch.tensor(
        [[tiny, 0.0, -math.inf], [0.0, tiny, -math.inf], [-math.inf, tiny, 0.0], [tiny, tiny, 0.0]]
    ).double()
    x = torch.full((1, 1, 4), V)
    for budget in (1, 2, 3, 4):
        space = made("____", ("ABC",) * 4, "AAAA", budget)
        log_h, law = space.lookahead.condition(log_pi[None, None], x, x == V)
        guide = CategoricalPosterior(law)
        every = words(4)
        every = every[space.contains(every[None])[0]]
        logs = log_pi[torch.arange(4), every].sum(-1)
        assert abs(float(log_h) - float(torch.logsumexp(logs, 0))) < 1e-9 * abs(float(log_h)) + 1e-9
        assert torch.allclose(guide.mean.sum(-1), torch.ones(1, 1, 4).double())


def test_particles_with_different_budgets_left_share_one_call():
    length = 6
    gen = torch.Generator().manual_seed(0)
    log_pi = torch.log_softmax(3 * torch.randn(1, 5, length, V, generator=gen).double(), -1)
    space = made("_" * length, ("ABC",) * length, "A" * length, 3)
    x = torch.full((1, 5, length), V)
    for k in range(5):
        x[0, k, :k] = 1  # k mutations are spent already; the last particle is beyond the budget
    unknown = x == V
    hot = torch.nn.functional.one_hot(x.clamp(max=V - 1), V).bool()
    log_pi = torch.where(unknown[..., None], log_pi, torch.where(hot, 0.0, -torch.inf).double())
    log_h, guide = space.condition(CategoricalPosterior(log_pi), x, unknown)
    assert float(log_h[0, 4]) == -math.inf
    assert torch.allclose(guide.mean[0, 3, 3:, 0], torch.ones(3).double())
    for k in range(4):
        one = CategoricalPosterior(log_pi[:, k : k + 1])
        alone_h, alone = space.condition(one, x[:, k : k + 1], unknown[:, k : k + 1])
        assert torch.allclose(alone_h[0, 0], log_h[0, k], atol=1e-10)
        assert torch.allclose(alone.mean[0, 0], guide.mean[0, k], atol=1e-10)


def test_wild_type_is_never_forced_before_the_budget_is_spent():
    """With two open positions and one mutation left, either may take it: P(keep) lies strictly
    between 0 and 1.
    """
    log_pi = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]], dtype=torch.float64)
    log_pi = log_pi.log()[None, None]
    space = made("__", ("ABC",) * 2, "AA", 1)
    x = torch.full((1, 1, 2), V)
    log_h, guide = space.condition(CategoricalPosterior(log_pi), x, x == V)
    h = 0.2 * 0.4 + 0.8 * 0.4 + 0.2 * 0.6
    assert abs(float(log_h.exp()) - h) < 1e-12
    assert abs(float(guide.mean[0, 0, 0, 0]) - 0.2 * 1.0 / h) < 1e-12
    assert abs(float(guide.mean[0, 0, 1, 0]) - 0.4 * 1.0 / h) < 1e-12


def test_restrict_touches_only_budgeted_parallel_kernels():
    q = Categorical(torch.zeros(1, 1, 2, V + 1))
    free = made("__", ("AB",) * 2)
    x, post = torch.full((1, 1, 2), V), CategoricalPosterior(torch.zeros(1, 1, 2, V))
    assert free.restrict(q, x, post, x == V) is q


# no dead end --------------------------------------------------------------------------------------


class RandomNetwork:
    """Finite logits that are an arbitrary function of the whole state."""

    def __init__(self, length: int, width: int, seed: int, scale: float) -> None:
        gen = torch.Generator().manual_seed(seed)
        shape = (length * width, length * V)
        self.weight = scale * torch.randn(shape, generator=gen, dtype=torch.float64)
        self.length, self.width = length, width

    def __call__(self, x: Tensor, t: float) -> Tensor:
        soft = torch.nn.functional.one_hot(x, self.width).double().flatten(-2)
        return (soft @ self.weight).unflatten(-1, (self.length, V))


@settings(max_examples=30, deadline=None)
@given(
    space=spaces(length=5),
    budget=st.sampled_from([None, 0, 1, 3]),
    kind=st.sampled_from(["random", "parallel", "uniform"]),
    method=st.sampled_from([PlainSMC(), Guidance(), DAS()]),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.3, 3.0]),
)
def test_never_a_dead_end(space, budget, kind, method, seed, scale):
    if budget is not None:
        forced = sum(space.wild_type[i] not in space.allowed[i] for i in range(5))
        assume(forced <= budget)
        space = made(space.fixed, space.allowed, space.wild_type, budget)
    process = (
        UniformProcess(RandomNetwork(5, V, seed, scale), ABC, 5, 3)
        if kind == "uniform"
        else MaskedProcess(RandomNetwork(5, V + 1, seed, scale), ABC, 5, 5, kind)
    )
    samples = method(
        process, PairReward(5, V, seed), (2, 4), rng=Streams(seed, (0, 1)), space=space
    )
    assert bool(space.contains(samples.designs.x).all())
    assert all(space.violations(s) == [] for row in samples.designs.sequences for s in row)
    assert bool(torch.isfinite(samples.log_w).all())


def test_twenty_letters_and_a_budget_of_ten_never_leave_the_space():
    length = 40
    gen = torch.Generator().manual_seed(1)
    table = 4 * torch.randn(length, 20, generator=gen, dtype=torch.float64)
    wild = PROTEIN.decode(torch.randint(0, 20, (1, length), generator=gen))[0]
    space = DesignSpace.build(PROTEIN, length, wild_type=wild, max_mutations=10)
    for order, steps in (("random", length), ("parallel", 7)):
        process = MaskedProcess(
            lambda x, t: table.expand(*x.shape[:2], length, 20), PROTEIN, length, steps, order
        )
        samples = PlainSMC()(process, _Additive(table), (1, 16), rng=Streams(0, (0,)), space=space)
        assert bool(space.contains(samples.designs.x).all())
        assert bool(torch.isfinite(samples.log_w).all())


class _Additive(PairReward):
    """Letters at their own price: cheap at forty positions."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.v = table, 20

    def relaxed(self, x: Tensor) -> Tensor:
        return (x * self.table.flip(-1)).sum((-1, -2))


# every constraint ---------------------------------------------------------------------------------


def rules(seed: int) -> tuple[int, dict[str, Any]]:
    """Draw a length and a random set of constraints over AKD, feasible or not."""
    r = random.Random(seed)
    n = r.randint(2, 5)
    cut = r.choice([n, n, *range(1, n)])
    numbers = [*range(1, cut + 1), *range(1, n - cut + 1)]
    named = Numbering(("A",) * cut + ("B",) * (n - cut), tuple(map(str, numbers)))

    def ends(values: list[float]) -> dict[str, float]:
        low, high = sorted(r.choices(values, k=2))
        return {k: v for k, v in (("min", low), ("max", high)) if r.random() < 0.6} or {"max": high}

    options = {
        "max_mutations": lambda: r.randint(0, n),
        "max_homopolymer": lambda: r.randint(1, 3),
        "composition": lambda: {r.choice(["A", "K", "DA"]): ends([0, 0.2, 0.4, 0.5, 0.8, 1])},
        "forbid": lambda: r.sample(
            ["AK", "K.D", "[^A]A", "^K", "D$", "A{2,}", "(KD|DK)", "K.*K"], r.choice([1, 2])
        ),
        "net_charge": lambda: ends([-3, -2, -1, 0, 1, 2, 3]),
        "tie": lambda: [[named.name(i) for i in r.sample(range(1, n + 1), 2)]],
        "residues": lambda: {named.name(r.randint(1, n)): {"allow": r.choice(["AK", "D", "KD"])}},
        "fix": lambda: {named.name(r.randint(1, n)): r.choice("AKD")},
    }
    chosen = {key: make() for key, make in options.items() if r.random() < 0.4}
    if 2 * cut == n and r.random() < 0.5:
        chosen["homo_oligomer"] = [["A", "B"]]
    wild = "".join(r.choices("AKD", k=n))
    return n, {"wild_type": wild, "numbering": named, **chosen}


def obeys(rule: dict[str, Any], word: str, skip: str = "") -> bool:
    """Return whether a word obeys every rule but one, from their plain meaning."""
    named, n = rule["numbering"], len(word)
    rule = {k: v for k, v in rule.items() if k != skip}
    groups = [{named.positions(i)[0] for i in g} for g in rule.get("tie", [])]
    if "homo_oligomer" in rule:
        groups += [{i, i + n // 2} for i in range(1, n // 2 + 1)]
    fixed = {named.positions(k)[0]: a for k, a in rule.get("fix", {}).items()}
    settled, size = set(fixed), -1
    while len(settled) > size:
        size = len(settled)
        settled |= {i for g in groups if g & settled for i in g}
    allow = {named.positions(k)[0]: a["allow"] for k, a in rule.get("residues", {}).items()}
    charge = word.count("K") - word.count("D")
    shares = [(sum(a in k for a in word) / n, e) for k, e in rule.get("composition", {}).items()]
    bounds = [*shares, (charge, rule.get("net_charge", {}))]
    chains = ["".join(a for a, c in zip(word, named.chains, strict=True) if c == k) for k in "AB"]
    free = [[i not in settled for i, c in enumerate(named.chains, 1) if c == k] for k in "AB"]
    judged = list(zip(chains, free, strict=True))
    run = rule.get("max_homopolymer", n)
    return (
        all(word[i - 1] == a for i, a in fixed.items())
        and all(word[i - 1] in a for i, a in allow.items() if i not in settled)
        and all(len({word[i - 1] for i in g}) == 1 for g in groups)
        and sum(map(str.__ne__, word, rule["wild_type"])) <= rule.get("max_mutations", n)
        and all(e.get("min", -9) - 1e-9 <= x <= e.get("max", 9) + 1e-9 for x, e in bounds)
        and not any(re.search(rf"(.)\1{{{run}}}", c) for c in chains)
        and not any(matches(p, c, f) for p in rule.get("forbid", []) for c, f in judged)
    )


def matches(text: str, word: str, free: list[bool]) -> bool:
    """Return whether some match of a pattern holds a free letter, span by span."""
    return any(
        re.compile(rf"(?:{text})(?=.{{{len(word) - e}}}\Z)").match(word, s)
        for s, e in itertools.combinations(range(len(word) + 1), 2)
        if any(free[s:e])
    )


def every_word(n: int) -> list[str]:
    return ["".join(w) for w in itertools.product("AKD", repeat=n)]


def best_bound(rule: dict[str, Any], message: str) -> Iterator[tuple[float, float]]:
    """Yield the value a message promises and the one that enumeration finds."""
    n = len(rule["wild_type"])
    found = re.search(r"(smallest|largest) feasible value is (-?[0-9.]+[0-9]|-?[0-9])", message)
    if found is None:
        return
    key = next(k for k in CURES if k in message)
    rest = [w for w in every_word(n) if obeys(rule, w, key)]
    promised = float(found[2])
    if key == "max_homopolymer":
        chains = rule["numbering"].chains
        words = [["".join(a for a, c in zip(w, chains, strict=True) if c == k) for k in "AB"]
                 for w in rest]  # fmt: skip
        runs = [max(len(m[0]) for c in w for m in re.finditer(r"(.)\1*", c)) for w in words]
        yield promised, min(runs)
        return
    if key == "max_mutations":
        yield promised, min(sum(map(str.__ne__, w, rule["wild_type"])) for w in rest)
        return
    if key == "net_charge":
        totals, ends = [w.count("K") - w.count("D") for w in rest], rule[key]
    else:
        ((letters, ends),) = rule[key].items()
        totals = [sum(a in letters for a in w) / n for w in rest]
    # the nearest total beyond the bound that is in the way
    if found[1] == "smallest":
        yield promised, min(t for t in totals if t > ends["max"])
    else:
        yield promised, max(t for t in totals if t < ends["min"])


CURES = ("max_mutations", "max_homopolymer", "composition", "net_charge")


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_the_verdict_is_the_one_of_enumeration(seed):
    n, rule = rules(seed)
    inside = [w for w in every_word(n) if obeys(rule, w)]
    if not inside:
        with pytest.raises(ValueError, match=r"\w") as caught:
            DesignSpace.build(AKD, n, **rule)
        for promised, found in best_bound(rule, str(caught.value)):
            assert abs(promised - found) < 1e-4, str(caught.value)
        return
    space = DesignSpace.build(AKD, n, **rule)
    kept = space.contains(AKD.encode(every_word(n))[None])[0].tolist()
    for word, ok in zip(every_word(n), kept, strict=True):
        assert ok == (word in inside), word
        assert ok == (space.violations(word) == []), word


def look(space: DesignSpace, seed: int, scale: float) -> tuple[Any, ...]:
    """Condition random posteriors on random, partly revealed states."""
    n, k = space.length, 4
    gen = torch.Generator().manual_seed(seed)
    log_pi = torch.log_softmax(scale * torch.randn(1, k, n, V, generator=gen).double(), -1)
    x = torch.randint(0, V, (1, k, n), generator=gen)
    unknown = torch.rand(1, k, n, generator=gen) < 0.6
    x = torch.where(unknown, V, x)
    hot = torch.nn.functional.one_hot(x.clamp(max=V - 1), V).bool()
    log_pi = torch.where(unknown[..., None], log_pi, torch.where(hot, 0.0, -torch.inf).double())
    log_h, guide = space.condition(CategoricalPosterior(log_pi), x, unknown)
    every = AKD.encode([w for w in every_word(n) if space.violations(w) == []])
    agrees = ((every == x[0, :, None]) | unknown[0, :, None]).all(-1)
    logs = log_pi[0][:, torch.arange(n), every].masked_fill(~unknown[0, :, None], 0.0).sum(-1)
    p = torch.where(agrees, logs.exp(), 0.0)
    mass = torch.einsum("kw,wiv->kiv", p, torch.nn.functional.one_hot(every, V).double())
    return log_h[0], guide.mean[0], p.sum(-1), mass


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    scale=st.sampled_from([0.5, 3.0, 30.0]),
    limit=st.sampled_from([1000, 1000, 0, 12]),
)
def test_every_look_ahead_is_enumeration_or_says_that_it_is_not(seed, scale, limit):
    n, rule = rules(seed)
    try:
        space = replace(DesignSpace.build(AKD, n, **rule), joint_limit=limit)
    except ValueError:
        assume(False)
    log_h, mean, p, mass = look(space, seed, scale)
    alive = p > 0
    if space.exact_lookahead:
        assert torch.allclose(log_h[alive], p[alive].log(), atol=1e-8), space.lookahead_note
        assert bool(torch.isneginf(log_h[~alive]).all()), space.lookahead_note
        marginals = mass[alive] / p[alive, None, None]
        assert torch.allclose(mean[alive], marginals, atol=1e-8), space.lookahead_note
    else:
        # finite wherever there is a completion, and no letter that completes is ruled out
        assert space.lookahead_note.startswith("approximate")
        assert bool(torch.isfinite(log_h[alive]).all())
        assert bool((mean[alive][mass[alive] > 1e-30] > 0).all())
        assert torch.allclose(mean.sum(-1), torch.ones(len(p), n).double())


def test_sharp_posteriors_fall_back_to_logarithms():
    """A budget together with a charge at 1e-60 per letter: sums of products would underflow."""
    n = 12
    log_pi = torch.tensor([0.0, -140.0, -150.0]).double().expand(1, 3, n, 3)
    log_pi = torch.log_softmax(log_pi, -1)
    space = DesignSpace.build(
        AKD, n, wild_type="K" * n, max_mutations=3, net_charge={"min": 3, "max": 8}
    )
    assert space.exact_lookahead
    x = torch.full((1, 3, n), V)
    log_h, guide = space.condition(CategoricalPosterior(log_pi), x, x == V)
    # m mutations, c of them to D: charge n - m - c
    terms = [
        math.log(math.comb(n, m) * math.comb(m, c)) - 140.0 * (n - m) - 150.0 * c
        for m in range(4)
        for c in range(m + 1)
        if 3 <= n - m - c <= 8
    ]
    want = float(torch.logsumexp(torch.tensor(terms, dtype=torch.float64), 0))
    assert torch.allclose(log_h, torch.full((1, 3), want, dtype=torch.float64), rtol=1e-9)
    assert torch.allclose(guide.mean.sum(-1), torch.ones(1, 3, n).double(), atol=1e-9)
    # only the mutations differ: nine K remain in all but a share of e^-10
    assert abs(float(guide.mean[0, 0, :, 1].sum()) - 9) < 1e-3


@pytest.mark.parametrize("name", CONSTRAINED)
@pytest.mark.parametrize("order", ["random", "parallel"])
def test_weighted_designs_obey_every_constraint(order, name):
    p = masked(order, length=4, steps=4, bias=1.0, space=CONSTRAINED[name]())
    for method in (PlainSMC(), TDS(), DAS(), Guidance()):
        samples = p.run(method, (20, 6), 3)
        alive = torch.isfinite(samples.log_w)
        for b, row in enumerate(samples.designs.sequences):
            for k, s in enumerate(row):
                assert not alive[b, k] or p.space.violations(s) == [], s
        if p.space.exact_lookahead:
            assert bool(alive.all()), "finite logits have no dead end"


def test_ties_must_be_revealed_together():
    p = masked("random", length=4, steps=4, space=CONSTRAINED["tie"]())
    loose = replace(p.process, blocks=())
    with pytest.raises(ValueError, match=r"blocks=space.blocks"):
        SMC(loose, p.reward, 1.0, space=p.space).init((1, 2), Streams(0, (0,)))
    assert p.space.reveals == 3
    assert p.space.free == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tie": [["A1"]]}, "ties nothing"),
        ({"tie": [["A1", "A9"]]}, "tie: 'A9'"),
        ({"tie": [["A1", "B1"]], "fix": {"A1": "A", "B1": "K"}}, "A1, B1: fixed to A and K"),
        (
            {"tie": [["A1", "B1"]], "residues": {"A1": {"allow": "A"}, "B1": {"allow": "K"}}},
            "no letter is allowed at all",
        ),
        ({"homo_oligomer": [["A", "C"]]}, "there is no 'C'"),
        ({"homo_oligomer": [["A"]]}, "two or more chains"),
        ({"homo_oligomer": [["A", "B"]]}, r"A \(3 positions\) and B \(2\).*residue 3 is in one"),
        ({"max_homopolymer": 0}, "max_homopolymer must be >= 1"),
        ({"composition": {"A": {"max": 3}}}, "3 is not a fraction of the 5 letters"),
        ({"composition": {"X": {"max": 0.3}}}, "one or more different letters"),
        ({"composition": {"A": {"most": 0.3}}}, "A.most: unknown key. Known: min, max"),
        ({"composition": {"A": {}}}, "write min, max or both"),
        ({"composition": {"A": {"min": 0.3, "max": 0.35}}}, "no whole number of the 5 letters"),
        ({"net_charge": {"min": 2, "max": 1}}, "min 2 is above max 1"),
        ({"net_charge": {"max": 0.5}}, "net_charge.max: 0.5 does not fit: .*a valid integer"),
        ({"forbid": ["A("]}, "never closed"),
        ({"forbid": ["A", "K", "D"]}, "forbid"),
        (
            {"net_charge": {"min": 4}, "residues": {"A1-2": {"omit": "K"}}},
            "largest feasible value is 3",
        ),
    ],
)
def test_what_cannot_be_is_said_with_its_place(options, message):
    named = Numbering(("A", "A", "A", "B", "B"), ("1", "2", "3", "1", "2"))
    with pytest.raises(ValueError, match=message):
        DesignSpace.build(AKD, 5, numbering=named, **options)


def test_violations_name_residues_as_the_author_does():
    named = Numbering(("A", "A", "A", "H", "H"), ("1", "2", "82A", "7", "9"))
    space = DesignSpace.build(
        AKD, 5, numbering=named, wild_type="AAAAA", tie=[["A1", "H9"]], max_homopolymer=2,
        composition={"K": {"max": 0.4}}, forbid=["KD"], net_charge={"min": 0, "max": 2},
    )  # fmt: skip
    assert space.violations("DDDKD") == [
        "net_charge is -3, at least 0 is required",
        "A1 to A82A is a run of 3 'D', at most 2 are allowed",
        "H7 to H9 is 'KD', which matches the forbidden 'KD'",
    ]
    assert space.violations("AKKKD")[:2] == [
        "tied positions differ: A1 is 'A', H9 is 'D'",
        "3 of 5 letters are 'K', at most 2 (0.4) are allowed",
    ]
    # a run does not go on in the next chain
    assert space.violations("KAKKK")[-1:] != ["A82A to H9 is a run of 3 'K', at most 2 are allowed"]
    assert space.fixed == "_____"


def test_a_tie_with_a_fixed_position_is_fixed():
    space = DesignSpace.build(AKD, 4, tie=[[1, 3], [3, 4]], fix={4: "D"}, omit="D")
    assert space.fixed == "D_DD"
    assert space.blocks == ((1, 3, 4),)
    assert space.reveals == 1
