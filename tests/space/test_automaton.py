"""Forbidden patterns and runs: the automaton agrees with Python's own regular expressions."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import re
import signal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seqalign.core.sequence import PROTEIN, Alphabet
from seqalign.space.automaton import MOST_STATES, product
from seqalign.space.constraint import ConstraintError
from seqalign.space.max_homopolymer import MaxHomopolymer
from seqalign.space.pattern import forbidding, pattern
from seqalign.space.positions import Positions
from seqalign.space.space import DesignSpace

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


def nested(r: random.Random, depth: int) -> str:
    """Draw a pattern with repeats inside repeats, which a backtracking search is slow at."""
    if depth == 0:
        return r.choice(["A", "B", ".", "[AB]", "[^A]", "A?", ".*"])
    parts = "".join(nested(r, depth - 1) for _ in range(r.choice([1, 2])))
    if r.random() < 0.3:
        parts += f"|{nested(r, depth - 1)}"
    return f"({parts}){r.choice(['*', '+', '?', '{2}', '{1,3}', '{2,}', ''])}"


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_nested_repeats_are_judged_as_python_judges_them(seed):
    r = random.Random(seed)
    text = nested(r, 2) + r.choice(["C", "C$", "[BC]", "", "AC"])
    if re.search(text, ""):
        return
    asked = pattern(text, "ABC")
    assert len(asked.refusing) <= MOST_STATES
    # short ones: Python would not come back from long ones
    for word in ("".join(r.choice("ABC") for _ in range(r.randint(1, 7))) for _ in range(12)):
        tokens = ["ABC".index(a) for a in word]
        found = re.search(text, word)
        assert (asked.refusing.refused(tokens) is None) == (found is None), (text, word)
        spans = asked.matches(tokens)
        assert bool(spans) == (found is not None)
        for start, end in spans:
            # the text of a match matches where it stands, and no longer one does from there
            assert re.compile(f"(?:{text})").fullmatch(word, start, end) or "$" in text
        if found is not None:
            assert spans[0][0] == found.start()
            assert spans[0][1] >= found.end()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_matches_are_those_of_python_where_every_match_has_one_length(seed):
    r = random.Random(seed)
    letters = ["A", "B", "C", ".", "[AB]", "[^A]"]
    text = "".join(r.choice(letters) for _ in range(r.randint(1, 4)))
    text = r.choice(["", "", "^"]) + text + r.choice(["", "", "$"])
    word = "".join(r.choice("ABC") for _ in range(30))
    found = [m.span() for m in re.finditer(text, word)]
    assert pattern(text, "ABC").matches(["ABC".index(a) for a in word]) == found


SLOW = [f"(.*){{{n}}}W" for n in (3, 7, 8, 60)]
SLOW += ["(.+.+)+W", "((.*)*)*W", "(.|..|A.)+W", "(.?){99}W"]


@pytest.mark.parametrize("text", SLOW)
def test_what_is_slow_to_backtrack_is_built_and_judged_all_the_same(text):
    """A guard stops a search that does not come back; it would take from a minute to for ever."""
    wild = ("ACDEFGHIKLMNPQRSTVY" * 20)[:300]
    with patience(20):
        space = DesignSpace.build(PROTEIN, 300, forbid=[text], wild_type=wild)
        assert space.violations(wild) == []
        (said,) = space.violations(wild[:-1] + "W")
        assert f"matches the forbidden {text!r}" in said
        assert "W" not in space.fixed


@pytest.mark.parametrize(
    "text",
    [
        ".{500}W", ".{999}W", "A.{9}W", "[AC].{8}W", "A.{500}W", "(A{999}){999}", "(.{99}){99}W",
        "((A|C){99}){99}W", "A{0,999}C{0,999}D{0,999}W", "(.{1,30}A){30}", "(A?){99}A{99}",
        "((.{9}){9}){9}W",
    ],
)  # fmt: skip
def test_large_counts_are_built_or_refused_in_a_sentence(text):
    said = ""
    with patience(40):
        try:
            space = DesignSpace.build(PROTEIN, 120, forbid=[text])
        except ConstraintError as error:
            said = str(error)
        broken = [] if said else space.violations("D" * 120)
    assert not broken
    assert not said or "too large: it needs an automaton of more than 2000 states" in said


@contextlib.contextmanager
def patience(seconds):
    """Raise TimeoutError in what does not come back; nothing is measured."""

    def stop(*_):
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
