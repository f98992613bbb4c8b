"""Forbidden patterns and runs as one automaton that reads a chain from left to right.

Regular expressions over the letters of an alphabet become a nondeterministic automaton (Thompson's
construction) and then a deterministic one (subset construction, merged states); what it has not
refused at the end of a chain contains no match anywhere. Supported are letters, `.`, `[ST]`,
`[^P]`, `[A-F]`, groups, `|`, `*`, `+`, `?`, `{m,n}`, and `^` and `$` for the ends of a chain.

References:
    Thompson, "Programming techniques: regular expression search algorithm", CACM 1968. Moore,
    "Gedanken-experiments on sequential machines", 1956 (merging states).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Automaton", "Pattern", "forbidding"]

# far more than any motif needs; what is larger would be too slow to look ahead with
MOST_STATES = 2000
LONGEST = 200


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton over V letters; it starts in state 0.

    Attributes:
        step: D rows of V next states; -1 where the letter completes something forbidden.
        ends: D flags, whether a chain may end in the state.
    """

    step: tuple[tuple[int, ...], ...]
    ends: tuple[bool, ...]

    def __len__(self) -> int:
        """Count the states (D)."""
        return len(self.step)

    def accepts(self, tokens: Iterable[int]) -> bool:
        """Return whether a whole chain of tokens contains nothing forbidden."""
        state = 0
        for a in tokens:
            state = self.step[state][a]
            if state < 0:
                return False
        return self.ends[state]

    def merged(self) -> Automaton:
        """Return the smallest automaton that does the same: states no chain tells apart are one.

        References:
            Moore 1956 (partition refinement).
        """
        # states from which every continuation is refused are refused at once
        alive = {d for d, end in enumerate(self.ends) if end}
        while True:
            more = {d for d, row in enumerate(self.step) if alive & set(row)} | alive
            if more == alive:
                break
            alive = more
        step = [[t if t in alive else -1 for t in row] for row in self.step]
        block = [int(e) for e in self.ends]
        count = len(set(block))
        while True:
            keys = [
                (block[d], tuple(-1 if t < 0 else block[t] for t in row))
                for d, row in enumerate(step)
            ]
            names: dict[tuple[int, tuple[int, ...]], int] = {}
            block = [names.setdefault(k, len(names)) for k in keys]
            if len(names) == count:
                break
            count = len(names)
        # state 0 came first and keeps the name 0; unreachable states go
        first = {b: d for d, b in reversed(list(enumerate(block)))}
        order, seen = [block[0]], {block[0]}
        for b in order:
            for t in step[first[b]]:
                if t >= 0 and block[t] not in seen:
                    seen.add(block[t])
                    order.append(block[t])
        place = {b: n for n, b in enumerate(order)}
        rows = tuple(tuple(-1 if t < 0 else place[block[t]] for t in step[first[b]]) for b in order)
        return Automaton(rows, tuple(self.ends[first[b]] for b in order))


# reading ------------------------------------------------------------------------------------------

# a node: ("letters", tokens), ("all", parts), ("any", parts), ("repeat", part, low, high | -1),
# ("first",) or ("last",)
Node = tuple[object, ...]


@dataclass(frozen=True)
class Pattern:
    """A regular expression over the letters of an alphabet.

    Attributes:
        text: the expression.
        letters: the alphabet's letters, in token order.

    Raises:
        ValueError: the text cannot be read, uses what is not supported, or matches the empty
            string, which would forbid everything.
    """

    text: str
    letters: str

    def __post_init__(self) -> None:
        """Read the text."""
        _nfa(self.text, self.letters)
        # what is searched for in finished sequences is this text
        try:
            re.compile(self.text)
        except re.error as error:
            raise ValueError(f"forbid: pattern {self.text!r}: {error}.") from error


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

    def whole(self) -> Node:
        if len(self.text) > LONGEST:
            self.at = LONGEST
            raise self.fail(f"a pattern has at most {LONGEST} characters")
        node = self.choice()
        if self.peek():
            raise self.fail(f"{self.peek()!r} closes nothing")
        return node

    def choice(self) -> Node:
        parts = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else ("any", tuple(parts))

    def sequence(self) -> Node:
        parts = []
        while self.peek() and self.peek() not in "|)":
            parts.append(self.repeated(self.atom()))
        return ("all", tuple(parts))

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
            return ("letters", self.bracket())
        self.at += 1
        if c == ".":
            return ("letters", frozenset(range(len(self.letters))))
        if c == "^":
            return ("first",)
        if c == "$":
            return ("last",)
        if c in self.letters:
            return ("letters", frozenset({self.letters.index(c)}))
        self.at -= 1
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
        chosen: set[int] = set()
        i = 0
        while i < len(inside):
            c = inside[i]
            if c not in self.letters:
                self.at = start + 1 + int(negative) + i
                raise self.fail(f"{c!r} is not one of the letters")
            if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
                if not c <= inside[i + 2] or inside[i + 2] not in self.letters:
                    raise self.fail(f"{inside[i : i + 3]!r} is not a range of letters")
                chosen |= {n for n, a in enumerate(self.letters) if c <= a <= inside[i + 2]}
                i += 3
            else:
                chosen.add(self.letters.index(c))
                i += 1
        self.at = end + 1
        return frozenset(set(range(len(self.letters))) - chosen if negative else chosen)

    def repeated(self, node: Node) -> Node:
        while (c := self.peek()) and c in "*+?{":
            if node[0] in ("first", "last"):
                raise self.fail(f"{c!r} repeats nothing")
            if c == "{":
                low, high = self.braces()
            else:
                low, high = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}[c]
                self.at += 1
            if self.peek() == "+":
                raise self.fail("possessive repeats are not supported")
            if self.peek() == "?":
                self.at += 1  # the laziest match exists where any does
            if self.peek() in ("*", "+", "{"):
                raise self.fail("one repeat follows another; use a group")
            node = ("repeat", node, low, high)
        return node

    def braces(self) -> tuple[int, int]:
        end = self.text.find("}", self.at)
        inside = self.text[self.at + 1 : end] if end > 0 else ""
        low, comma, high = inside.partition(",")
        fine = all(n == "" or (n.isascii() and n.isdigit() and len(n) < 4) for n in (low, high))
        if end < 0 or not fine or not (low or high):
            raise self.fail("a count is written {3}, {2,} or {2,4}")
        least = int(low or 0)
        most = -1 if comma and not high else int(high or low)
        if 0 <= most < least:
            raise self.fail(f"{{{inside}}} counts down")
        self.at = end + 1
        return least, most


class _Nfa:
    """States with silent moves (always, at the first or at the last letter) and letter moves."""

    def __init__(self, text: str) -> None:
        self.text, self.work = text, 0
        self.silent: list[list[tuple[str, int]]] = []
        self.moves: list[list[tuple[frozenset[int], int]]] = []

    def state(self) -> int:
        self.silent.append([])
        self.moves.append([])
        return len(self.silent) - 1

    def add(self, node: Node, start: int) -> int:
        """Append a node after a state; return the state after it."""
        self.work += 1
        if self.work > 20 * MOST_STATES:
            raise ValueError(f"forbid: pattern {self.text!r} is too large; use smaller counts.")
        kind = node[0]
        if kind == "all":
            for part in node[1]:  # type: ignore[attr-defined]
                start = self.add(part, start)
            return start
        end = self.state()
        if kind == "letters":
            self.moves[start].append((node[1], end))  # type: ignore[arg-type]
        elif kind in ("first", "last"):
            self.silent[start].append((str(kind), end))
        elif kind == "any":
            for part in node[1]:  # type: ignore[attr-defined]
                begin = self.state()
                self.silent[start].append(("", begin))
                self.silent[self.add(part, begin)].append(("", end))
        else:
            _, part, low, high = node
            for _ in range(low):  # type: ignore[call-overload]
                start = self.add(part, start)  # type: ignore[arg-type]
            if high == -1:
                loop = self.state()
                self.silent[start].append(("", loop))
                self.silent[self.add(part, loop)].append(("", loop))  # type: ignore[arg-type]
                start = loop
            else:
                for _ in range(high - low):  # type: ignore[operator]
                    self.silent[start].append(("", end))
                    start = self.add(part, start)  # type: ignore[arg-type]
            self.silent[start].append(("", end))
        return end

    def reach(self, states: Iterable[int], *, first: bool = False, last: bool = False) -> set[int]:
        """Follow the silent moves that are open at the first, the last or any other place."""
        found = set(states)
        todo = list(found)
        while todo:
            for when, to in self.silent[todo.pop()]:
                open_ = not when or (when == "first" and first) or (when == "last" and last)
                if open_ and to not in found:
                    found.add(to)
                    todo.append(to)
        return found


@lru_cache(maxsize=256)
def _nfa(text: str, letters: str) -> tuple[_Nfa, int]:
    """Read one expression; return its automaton, which starts in state 0, and its last state."""
    nfa = _Nfa(text)
    node = _Reader(text, letters).whole()
    end = nfa.add(node, nfa.state())
    if end in nfa.reach([0], first=True, last=True):
        raise ValueError(
            f"forbid: pattern {text!r} matches the empty string, so no sequence would be left. "
            f"Let it match at least one letter."
        )
    return nfa, end


@lru_cache(maxsize=256)
def forbidding(patterns: Sequence[str], letters: str, run: int | None = None) -> Automaton:
    """Return the automaton of chains without a match of any pattern and without long runs.

    `run` is the largest number of equal letters in a row; None for no limit. `patterns` is a tuple
    of regular expressions over `letters`.

    Raises:
        ValueError: a pattern cannot be read, or the automaton would need too many states.
    """
    parts = [_nfa(p, letters) for p in patterns]
    # between matches a search may begin anywhere: the start states never leave
    always = [frozenset(nfa.reach([0])) for nfa, _ in parts]
    # a state: what each pattern has seen, the last letter and how often it stands in a row
    State = tuple[tuple[frozenset[int], ...], int, int]
    start: State = (tuple(frozenset(nfa.reach([0], first=True)) for nfa, _ in parts), -1, 0)
    place, order, step = {start: 0}, [start], []
    for seen, letter, count in order:
        row = []
        for a in range(len(letters)):
            now = tuple(
                always[n] | nfa.reach(t for q in seen[n] for some, t in nfa.moves[q] if a in some)
                for n, (nfa, _) in enumerate(parts)
            )
            many = (count + 1 if a == letter else 1) if run is not None else 0
            bad = any(end in now[n] for n, (_, end) in enumerate(parts))
            if bad or (run is not None and many > run):
                row.append(-1)
                continue
            state = (now, a if run is not None else -1, many)
            if state not in place:
                if len(order) >= MOST_STATES:
                    raise ValueError(
                        f"forbid: the patterns {list(patterns)} need an automaton of more than "
                        f"{MOST_STATES} states. Use fewer or shorter patterns."
                    )
                place[state] = len(order)
                order.append(state)
            row.append(place[state])
        step.append(tuple(row))
    ends = tuple(
        all(end not in nfa.reach(seen[n], last=True) for n, (nfa, end) in enumerate(parts))
        for seen, _, _ in order
    )
    return Automaton(tuple(step), ends).merged()
