"""Law 4, streams: every number is a pure function of (seed, purpose, global island, particle,
position).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checks import P_VALUE, SIGMAS, counts_are, mean_is
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqalign.core.streams import Streams, _uniform, philox


def words(*hexes: str) -> tuple[int, ...]:
    return tuple(int(h, 16) for h in hexes)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        (
            words("0", "0", "0", "0"),
            words("0", "0"),
            words("6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"),
        ),
        (
            words(*["ffffffff"] * 4),
            words(*["ffffffff"] * 2),
            words("408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"),
        ),
        (
            words("243f6a88", "85a308d3", "13198a2e", "03707344"),
            words("a4093822", "299f31d0"),
            words("d16cfe09", "94fdcceb", "5001e420", "24126ea1"),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, answer):
    out = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(w.item() for w in out) == answer


def test_uniforms_lie_in_the_open_interval_and_are_uniform():
    u = Streams(0, tuple(range(8))).uniform((8, 50, 250))
    assert u.dtype == torch.float64
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > P_VALUE
    mean_is(u.flatten(), 0.5)
    mean_is((u.flatten() - 0.5) ** 2, 1 / 12)


@pytest.mark.parametrize("word", [0, 0xFFFFFFFF])
def test_the_extreme_words_stay_inside_the_interval(monkeypatch, word):
    fixed = torch.full((1, 1, 1), word, dtype=torch.int64)
    monkeypatch.setattr("seqalign.core.streams.philox", lambda counter, key: (fixed,) * 4)
    streams = Streams(0, (0,))
    u = streams.uniform((1, 1, 2))
    assert bool(((u > 0) & (u < 1)).all())
    assert bool(torch.isfinite(streams.normal((1, 1, 2))).all())
    assert bool(torch.isfinite(torch.log(-torch.log(u))).all())


def test_normals_are_normal():
    z = Streams(1, (0, 1)).normal((2, 40, 1000)).flatten()
    assert stats.kstest(z.numpy(), "norm").pvalue > P_VALUE
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        mean_is(z**power, moment)


def test_categorical_draws_its_probabilities_and_never_a_zero():
    p = torch.tensor([0.5, 0.0, 0.2, 1e-3, 0.0, 0.299], dtype=torch.float64)
    logits = torch.log(p) + 3.7
    draws = Streams(2, (0, 5)).categorical(logits.expand(2, 50, 400, 6))
    assert draws.shape == (2, 50, 400)
    counts_are(torch.bincount(draws.flatten(), minlength=6), p)


def test_categorical_with_one_open_letter_always_draws_it():
    logits = torch.full((3, 4, 7, 5), -torch.inf, dtype=torch.float64)
    logits[..., 3] = -1e300
    assert bool((Streams(3, (1, 2, 3)).categorical(logits) == 3).all())


def test_islands_three_and_seven_alone_draw_what_they_draw_among_sixteen():
    every, some = Streams(5, tuple(range(16))).at("x", 4), Streams(5, (3, 7)).at("x", 4)
    logits = torch.linspace(-2, 0, 6).expand(16, 9, 5, 6)
    rows = [3, 7]
    assert torch.equal(every.uniform((16, 9, 5))[rows], some.uniform((2, 9, 5)))
    assert torch.equal(every.uniform((16,))[rows], some.uniform((2,)))
    assert torch.equal(every.uniform((16, 9))[rows], some.uniform((2, 9)))
    assert torch.equal(every.normal((16, 9, 3, 3))[rows], some.normal((2, 9, 3, 3)))
    assert torch.equal(every.categorical(logits)[rows], some.categorical(logits[rows]))
    assert torch.equal(every.take(rows).uniform((2, 9)), some.uniform((2, 9)))


@settings(max_examples=50, deadline=None)
@given(
    k=st.integers(1, 20),
    cut=st.integers(0, 19),
    event=st.lists(st.integers(1, 5), max_size=3),
    island=st.integers(0, 2**40),
)
def test_a_chunk_draws_what_it_draws_in_the_whole(k, cut, event, island):
    cut = min(cut, k - 1)
    rng = Streams(11, (island,)).at("value")
    whole = rng.uniform((1, k, *event))
    chunk = rng.particles(cut).uniform((1, k - cut, *event))
    assert torch.equal(whole[:, cut:], chunk)
    twice = rng.particles(cut // 2).particles(cut - cut // 2)
    assert torch.equal(twice.uniform((1, k - cut, *event)), chunk)


def test_a_shorter_event_is_a_prefix_of_a_longer_one():
    rng = Streams(1, (4, 2))
    assert torch.equal(rng.uniform((2, 3, 5)), rng.uniform((2, 3, 9))[..., :5])


def test_numbers_made_ahead_are_those_made_alone():
    """Steps are drawn sixteen at a time; what is drawn for one must not show it."""
    for path in ((3,), (15, "a"), (16, "a"), ("x", 2, "y", 40, "z"), (2**40, "a")):
        for first in (0, 5):
            rng = Streams(7, (3, 2**33)).at(*path).particles(first)
            alone = _uniform(7, [path], (3, 2**33), first, (4, 6))[0]
            assert np.array_equal(rng.uniform((2, 4, 2, 3)).numpy(), alone.reshape(2, 4, 2, 3))


def test_a_caller_may_write_into_what_it_drew():
    rng = Streams(7, (3,)).at(5)
    before = rng.uniform((1, 4)).clone()
    rng.uniform((1, 4)).zero_()
    assert torch.equal(rng.uniform((1, 4)), before)


def test_seeds_purposes_steps_islands_and_particles_are_independent():
    n = 20000
    base = Streams(0, (0,))
    columns = [
        base.uniform((1, 1, n)),
        base.particles(1).uniform((1, 1, n)),
        Streams(0, (1,)).uniform((1, 1, n)),
        Streams(0, (2**32,)).uniform((1, 1, n)),
        Streams(1, (0,)).uniform((1, 1, n)),
        base.at(0).uniform((1, 1, n)),
        base.at(1).uniform((1, 1, n)),
        base.at("1").uniform((1, 1, n)),
        base.at("a", 1).uniform((1, 1, n)),
        base.at("a1").uniform((1, 1, n)),
    ]
    correlation = np.corrcoef(torch.cat(columns).flatten(1).numpy())
    off = correlation[~np.eye(len(columns), dtype=bool)]
    assert float(np.abs(off).max()) < SIGMAS / math.sqrt(n)


def test_numbers_within_one_stream_are_serially_uncorrelated():
    u = Streams(9, (0,)).uniform((1, 1, 40000)).flatten() - 0.5
    for lag in (1, 2, 3, 4):
        mean_is((u[lag:] * u[:-lag])[:: lag + 1], 0.0)


def test_purposes_can_be_given_at_once_or_one_after_another():
    rng = Streams(0, (0,))
    assert torch.equal(rng.at(3, "value").uniform((1, 4)), rng.at(3).at("value").uniform((1, 4)))


def test_streams_are_values_and_drawing_changes_nothing():
    rng = Streams(3, [1, 2])
    first = rng.uniform((2, 3))
    assert torch.equal(first, rng.uniform((2, 3)))
    assert rng == Streams(3, (1, 2))
    assert hash(rng) == hash(Streams(3, (1, 2)))


def test_integers_of_any_kind_name_the_same_streams():
    plain = Streams(3, (1,)).at(2).uniform((1, 3))
    assert torch.equal(Streams(np.int64(3), (np.int64(1),)).at(np.int64(2)).uniform((1, 3)), plain)


def test_wrong_shapes_and_ids_are_refused():
    with pytest.raises(ValueError, match="number of islands, 2"):
        Streams(0, (0, 1)).uniform((3, 4))
    with pytest.raises(ValueError, match=">= 0"):
        Streams(0, (-1,))
