"""A regular expression that must match nowhere, as an automaton.

Regular expressions over the letters of an alphabet become a nondeterministic automaton (Thompson's
construction) and then a deterministic one (subset construction, merged states); what it has not
refused at the end of a chain contains no match anywhere. Supported are letters, `.`, `[ST]`,
`[^P]`, `[A-F]`, groups, `|`, `*`, `+`, `?`, `{m,n}`, and `^` and `$` for the ends of a chain.

References:
    Thompson, "Programming techniques: regular expression search algorithm", CACM 1968.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from seqalign.space.automaton import MOST_STATES, Automaton

__all__ = ["forbidding"]

LONGEST = 200
# a node: ("letters", tokens), ("all", parts), ("any", parts), ("repeat", part, low, high | -1),
# ("first",) or ("last",)
Node = tuple[object, ...]


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
def forbidding(pattern: str, letters: str) -> Automaton:
    """Return the automaton of the chains over `letters` in which a pattern matches nowhere.

    Raises:
        ValueError: the pattern cannot be read, uses what is not supported, matches the empty
            string, which would forbid everything, or needs too many states.
    """
    nfa, end = _nfa(pattern, letters)
    # what is searched for in finished sequences is this text
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"forbid: pattern {pattern!r}: {error}.") from error
    # a search may begin anywhere: the start states never leave
    always = frozenset(nfa.reach([0]))
    start = frozenset(nfa.reach([0], first=True))
    place, order, step = {start: 0}, [start], []
    for seen in order:
        row = []
        for a in range(len(letters)):
            now = always | nfa.reach(t for q in seen for some, t in nfa.moves[q] if a in some)
            if end in now:
                row.append(-1)
                continue
            if now not in place:
                if len(order) >= MOST_STATES:
                    raise ValueError(
                        f"forbid: pattern {pattern!r} needs an automaton of more than "
                        f"{MOST_STATES} states. Use a shorter pattern."
                    )
                place[now] = len(order)
                order.append(now)
            row.append(place[now])
        step.append(tuple(row))
    ends = tuple(end not in nfa.reach(seen, last=True) for seen in order)
    return Automaton(tuple(step), ends).merged()
