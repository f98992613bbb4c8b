"""A regular expression that must match nowhere, as an automaton.

A state is what may still follow of every match begun so far: sets of partial derivatives of the
expression. What has not been refused at the end of a chain contains no match anywhere. Supported
are letters, `.`, `[ST]`, `[^P]`, `[A-F]`, groups, `|`, `*`, `+`, `?`, `{m,n}`, and `^` and `$` for
the ends of a chain.

References:
    Antimirov, "Partial derivatives of regular expressions and finite automaton constructions",
    Theoretical Computer Science 1996.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from seqalign.space.automaton import MOST_STATES, Automaton, explored

__all__ = ["Pattern", "forbidding", "pattern"]

LONGEST = 200
COUNT = re.compile(r"\{(\d{0,3})(?:(,)(\d{0,3}))?\}", re.ASCII)


@dataclass(frozen=True)
class _Any:
    """One of several sequences."""

    choices: tuple[Todo, ...]


@dataclass(frozen=True)
class _Repeat:
    """A node from `low` to `high` times, without end if that is infinite."""

    part: Node
    low: int
    high: float


# letters by number, an end of the chain ("^" or "$"), or a group; one after another
Node = frozenset[int] | str | _Any | _Repeat
Todo = tuple[Node, ...]


def _empty(todo: Todo, first: bool = False, last: bool = False) -> bool:
    """Return whether nodes match nothing at all, at the first, the last or any other place."""
    for node in todo:
        if isinstance(node, _Any):
            fits = any(_empty(choice, first, last) for choice in node.choices)
        elif isinstance(node, _Repeat):
            fits = node.low == 0 or _empty((node.part,), first, last)
        else:
            fits = (first and node == "^") or (last and node == "$")
        if not fits:
            return False
    return True


def _moves(todo: Todo, first: bool = False) -> Iterator[tuple[frozenset[int], Todo]]:
    """Yield the letters that nodes may begin with, and what is left to match after them."""
    for n, node in enumerate(todo):
        rest = todo[n + 1 :]
        if isinstance(node, frozenset):
            yield node, rest
        elif isinstance(node, _Any):
            for choice in node.choices:
                yield from ((letters, then + rest) for letters, then in _moves(choice, first))
        elif isinstance(node, _Repeat) and node.high:
            # a part that may match nothing here can stand for all those that are asked for
            low = 0 if _empty((node.part,), first) else max(node.low - 1, 0)
            rest = (replace(node, low=low, high=node.high - 1), *rest)
            yield from ((letters, then + rest) for letters, then in _moves((node.part,), first))
        if not _empty((node,), first):
            return


class _Reader:
    """A recursive-descent reader of one expression."""

    def __init__(self, text: str, letters: str) -> None:
        self.text, self.letters, self.at = text, letters, 0

    def fail(self, why: str) -> ValueError:
        return ValueError(
            f"forbid: pattern {self.text!r}, character {self.at + 1}: {why}. Supported are "
            f"letters of {self.letters!r}, . [ST] [^P] ( ) | * + ? {{m,n}} ^ and $."
        )

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def whole(self) -> Todo:
        if len(self.text) > LONGEST:
            self.at = LONGEST
            raise self.fail(f"a pattern has at most {LONGEST} characters")
        node = self.choice()
        if self.peek():
            raise self.fail(f"{self.peek()!r} closes nothing")
        return (node,)

    def choice(self) -> Node:
        choices: list[Todo] = [()]
        while (c := self.peek()) and c != ")":
            if c == "|":
                self.at += 1
                choices.append(())
            else:
                choices[-1] = (*choices[-1], self.repeated(self.atom()))
        return _Any(tuple(choices))

    def atom(self) -> Node:
        c = self.peek()
        if c == "(":
            start = self.at
            self.at += 1
            if self.peek() == "?":
                if self.text[self.at : self.at + 2] != "?:":
                    raise self.fail("look-around, names and flags in (?...) are not supported")
                self.at += 2
            node = self.choice()
            if self.peek() != ")":
                self.at = start
                raise self.fail("'(' is never closed")
            self.at += 1
            return node
        if c == "[":
            return self.bracket()
        if c in ".^$" or c in self.letters:
            self.at += 1
            if c in "^$":
                return c
            return frozenset(n for n, a in enumerate(self.letters) if c in (a, "."))
        if c == "\\":
            raise self.fail("escapes and back-references are not supported")
        if c in "*+?{":
            raise self.fail(f"{c!r} repeats nothing")
        raise self.fail(f"{c!r} is not one of the letters")

    def bracket(self) -> frozenset[int]:
        start = self.at
        end = self.text.find("]", start + 1)
        inside = self.text[start + 1 : end]
        if end < 0:
            raise self.fail("'[' is never closed")
        negative = inside.startswith("^")
        inside = inside[1:] if negative else inside
        if not inside:
            raise self.fail("an empty [] matches nothing")
        chosen: set[str] = set()
        for found in re.finditer("(.)-(.)|(.)", inside, re.DOTALL):
            low, high = found[1] or found[3], found[2] or found[3]
            if low not in self.letters:
                self.at = start + 1 + int(negative) + found.start()
                raise self.fail(f"{low!r} is not one of the letters")
            if not low <= high or high not in self.letters:
                raise self.fail(f"{found[0]!r} is not a range of letters")
            chosen |= {a for a in self.letters if low <= a <= high}
        self.at = end + 1
        return frozenset(n for n, a in enumerate(self.letters) if (a in chosen) != negative)

    def repeated(self, node: Node) -> Node:
        while (c := self.peek()) and c in "*+?{":
            if isinstance(node, str):
                raise self.fail(f"{c!r} repeats nothing")
            low, high = self.counts()
            if self.peek() == "+":
                raise self.fail("possessive repeats are not supported")
            if self.peek() == "?":
                self.at += 1  # the laziest match exists where any does
            if self.peek() in ("*", "+", "{"):
                raise self.fail("one repeat follows another; use a group")
            node = _Repeat(node, low, high)
        return node

    def counts(self) -> tuple[int, float]:
        short = {"*": "{0,}", "+": "{1,}", "?": "{0,1}"}.get(self.peek())
        found = COUNT.match(short or self.text[self.at :])
        if found is None or not (found[1] or found[3]):
            raise self.fail("a count is written {3}, {2,} or {2,4}")
        low = int(found[1] or 0)
        high = math.inf if found[2] and not found[3] else int(found[3] or found[1])
        if high < low:
            raise self.fail(f"{found[0]} counts down")
        self.at += 1 if short else found.end()
        return low, high


class Pattern:
    """An expression over V letters: where it matches, and the automaton of where it does not.

    What is left to match has a number, since it is slow to compare: 0 is all of it at the first
    letter of a chain, 1 all of it anywhere.

    Raises:
        ValueError: the pattern cannot be read, uses what is not supported, matches the empty
            string, which would forbid everything, or is too large.
    """

    def __init__(self, text: str, letters: str) -> None:
        self.text, self.letters = text, letters
        whole = _Reader(text, letters).whole()
        if _empty(whole, first=True, last=True):
            raise ValueError(
                f"forbid: pattern {text!r} matches the empty string, so no sequence would be left. "
                f"Let it match at least one letter."
            )
        todos, number = [whole, whole], dict[Todo, int]()
        self.moves: list[list[tuple[frozenset[int], int]]] = []
        for n, todo in enumerate(todos):
            self.moves.append([])
            for some, then in _moves(todo, first=n == 0):
                if then not in number:
                    number[then] = len(todos)
                    todos.append(then)
                self.moves[n].append((some, number[then]))
            if len(todos) > 20 * MOST_STATES:
                raise ValueError(self.many)
        self.done = {n for n, todo in enumerate(todos) if _empty(todo)}
        self.done_last = {n for n, todo in enumerate(todos) if _empty(todo, last=True)}
        # letters that every set of the pattern holds or leaves out together are one
        named = {some: n for n, some in enumerate({some for row in self.moves for some, _ in row})}
        alike: dict[tuple[bool, ...], int] = {}
        self._class = [
            alike.setdefault(tuple(a in some for some in named), len(alike))
            for a in range(len(letters))
        ]
        self._classes = {some: {self._class[a] for a in some} for some in named}
        self._after: dict[frozenset[int], list[frozenset[int]]] = {}

    @property
    def many(self) -> str:
        """What is said of a pattern that is too large."""
        return (
            f"forbid: pattern {self.text!r} is too large: it needs an automaton of more than "
            f"{MOST_STATES} states, or nests its counts. Use a shorter pattern or smaller counts."
        )

    def after(self, state: frozenset[int]) -> list[frozenset[int]]:
        """Return what is left to match of what was, by the next letter."""
        if state not in self._after:
            row: list[set[int]] = [set() for _ in self._class]
            for some, then in (move for n in state for move in self.moves[n]):
                for c in self._classes[some]:
                    row[c].add(then)
            known = [frozenset(now) for now in row]
            self._after[state] = [known[c] for c in self._class]
        return self._after[state]

    @cached_property
    def refusing(self) -> Automaton:
        """The automaton of the chains in which it matches nowhere.

        Raises:
            ValueError: it needs too many states.
        """

        def step(state: frozenset[int]) -> list[frozenset[int] | None]:
            # a search may begin anywhere
            return [None if now & self.done else now for now in self.after(state | {1})]

        return explored(frozenset({0}), step, self.done_last.isdisjoint, self.many).merged()

    @cached_property
    def touching(self) -> Automaton:
        """The automaton of the chains in which it matches fixed letters alone, or nowhere.

        A state is what may follow of matches that hold no free letter yet, and of those that do.

        Raises:
            ValueError: it needs too many states.
        """
        nothing: frozenset[int] = frozenset()
        Pair = tuple[frozenset[int], frozenset[int]]

        def moves(state: Pair) -> list[Pair | None]:
            still, touched = state
            free = [(nothing, now) for now in self.after(still | touched | {1})]
            fixed = [
                (kept - now, now)
                for kept, now in zip(self.after(still | {1}), self.after(touched), strict=True)
            ]
            return [None if pair[1] & self.done else pair for pair in (*free, *fixed)]

        return explored(
            (frozenset({0}), nothing),
            moves,
            lambda state: self.done_last.isdisjoint(state[1]),
            self.many,
            kept=True,
        ).merged()

    def inside(self, tokens: Sequence[int | None]) -> bool:
        """Whether it matches within a stretch of known letters of one chain."""
        state: frozenset[int] = frozenset()
        for i, a in enumerate(tokens):
            if a is None:
                state = frozenset()
                continue
            state = self.after(state | ({1} if i else {0, 1}))[a]
            if state & self.done or (i + 1 == len(tokens) and state & self.done_last):
                return True
        return False

    def matches(
        self, tokens: Sequence[int], free: Sequence[bool] | None = None
    ) -> list[tuple[int, int]]:
        """Return where it matches in one chain: the first match, as long as can be, and so on.

        With flags of free letters, those that hold one.
        No way of matching is tried twice, so that what is slow to a backtracking search is not.
        """
        found, start, last = [], 0, len(tokens)
        while start < last:
            state, end = frozenset({1} if start else {0, 1}), None
            for i in range(start, last):
                state = self.after(state)[tokens[i]]
                if state & self.done or (i + 1 == last and state & self.done_last):
                    end = i + 1
                if not state:
                    break
            # the longest match holds a free letter if any from here does
            if free is not None and end is not None and not any(free[start:end]):
                end = None
            if end is not None:
                found.append((start, end))
            start = start + 1 if end is None else end
        return found


@lru_cache(maxsize=256)
def pattern(text: str, letters: str) -> Pattern:
    """Return a pattern over `letters`, read once."""
    found = Pattern(text, letters)
    # what people know as a regular expression is what Python calls one
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"forbid: pattern {text!r}: {error}.") from error
    return found


def forbidding(text: str, letters: str) -> Automaton:
    """Return the automaton of the chains over `letters` in which a pattern matches nowhere.

    Raises:
        ValueError: as `Pattern` says, or the automaton needs too many states.
    """
    return pattern(text, letters).refusing
