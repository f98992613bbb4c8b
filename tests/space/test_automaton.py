"""Forbidden patterns and runs: the automaton agrees with Python's own regular expressions."""

from __future__ import annotations

import functools
import itertools
import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqalign.core.sequence import PROTEIN, Alphabet
from seqalign.space.automaton import product
from seqalign.space.max_homopolymer import MaxHomopolymer
from seqalign.space.pattern import forbidding
from seqalign.space.positions import Positions

WORDS = ["".join(w) for n in range(1, 6) for w in itertools.product("ABC", repeat=n)]


def expression(r: random.Random, depth: int) -> str:
    """Draw a pattern of the supported language."""
    kind = r.random()
    if depth == 0 or kind < 0.45:
        return r.choice(["A", "B", "C", ".", "[AB]", "[^A]", "[A-B]", "[^BC]"])
    if kind < 0.6:
        return expression(r, depth - 1) + expression(r, depth - 1)
    if kind < 0.72:
        return f"({expression(r, depth - 1)}|{expression(r, depth - 1)})"
    if kind < 0.9:
        many = r.choice(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "+?"])
        return f"(?:{expression(r, depth - 1)}){many}"
    return f"^{expression(r, depth - 1)}" if kind < 0.95 else f"{expression(r, depth - 1)}$"


def runs(most, alphabet):
    """The automaton of short runs in long chains."""
    return MaxHomopolymer(most).automaton(Positions(alphabet, 99))


def together(*automata):
    return functools.reduce(product, automata)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9), run=st.sampled_from([None, 1, 2]))
def test_it_refuses_what_search_finds(seed, run):
    r = random.Random(seed)
    patterns = tuple(expression(r, 3) for _ in range(r.choice([1, 1, 2])))
    if any(re.search(p, "") for p in patterns):
        with pytest.raises(ValueError, match="matches the empty string"):
            [forbidding(p, "ABC") for p in patterns]
        return
    automata = [forbidding(p, "ABC") for p in patterns]
    automaton = together(*automata, *([] if run is None else [runs(run, Alphabet("ABC"))]))
    for word in WORDS:
        bad = any(re.search(p, word) for p in patterns)
        long = run is not None and re.search(rf"(.)\1{{{run}}}", word)
        refused = automaton.refused(["ABC".index(a) for a in word])
        assert (refused is None) == (not bad and not long)
        if refused is not None:
            assert 0 <= refused < len(word)


def test_it_is_as_small_as_can_be():
    assert len(runs(4, PROTEIN)) == 1 + 20 * 4
    assert len(forbidding("N[^P][ST]", PROTEIN.letters)) == 4
    same = [forbidding(p, "ABC") for p in ("AB", "A[B]", "A{1}B")]
    assert together(*same) == same[0]
    # one language, one automaton, whatever is read first
    some = [forbidding("AB", "ABC"), forbidding("C.A", "ABC"), runs(2, Alphabet("ABC"))]
    assert len({together(*order) for order in itertools.permutations(some)}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("N(", r"'\(' is never closed"),
        ("N[S", r"'\[' is never closed"),
        ("A{", "a count is written"),
        ("A{3,1}", "counts down"),
        ("A**", "one repeat follows another"),
        ("A++", "possessive"),
        ("*A", "repeats nothing"),
        ("(?=A)", "look-around"),
        (r"A\1", "back-references"),
        ("a", "'a' is not one of the letters"),
        ("[AX-]", "'X' is not one of the letters"),
        ("A)", "closes nothing"),
        ("[]", "empty"),
        ("A*", "matches the empty string"),
        ("", "matches the empty string"),
        ("(A{999}){999}", "too large"),
        ("(" * 300, "at most 200 characters"),
    ],
)
def test_what_it_cannot_read_is_said_in_a_sentence(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        forbidding(text, PROTEIN.letters)
    assert str(caught.value).startswith("forbid: pattern")


def test_too_many_states_are_refused():
    with pytest.raises(ValueError, match="more than 2000 states"):
        forbidding("(A|B)*A(A|B){12}", "AB")


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="AB.[]^$()|*+?{},0123\\-", max_size=25))
@example(text="((){99}){99}")
def test_any_text_is_read_or_refused(text):
    try:
        forbidding(text, "AB")
    except ValueError:
        return
    assert re.search(text, "") is None
