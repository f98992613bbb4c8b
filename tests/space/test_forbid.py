"""A pattern is judged where it holds a designed letter: by enumeration, in all of a space."""

import itertools
import math
import random
import re

import pytest
import torch

from seqalign.core.discrete import CategoricalPosterior
from seqalign.core.sequence import PROTEIN, Alphabet
from seqalign.files.numbering import Numbering
from seqalign.space.constraint import ConstraintError
from seqalign.space.forbid import Forbid
from seqalign.space.pattern import pattern
from seqalign.space.space import DesignSpace

ABC = Alphabet("ABC")
PATTERNS = "AB A.?B (AB)+C? A{2,3} [^A]C B(A|CC)B ^A C$ A*B ^AB|CA$ .".split()


def touches(text: str, word: str, free: set[int]) -> bool:
    """Whether any match of a pattern in one chain holds a free letter, tried span by span."""
    return any(
        re.compile(rf"(?:{text})(?=.{{{len(word) - e}}}\Z)").match(word, s)
        for s, e in itertools.combinations(range(len(word) + 1), 2)
        if free & set(range(s, e))
    )


def case(rng: random.Random, chains: int = 1):
    """Return patterns, fixed letters and names; some letters are fixed where a pattern matches."""
    n = rng.randint(2, 6)
    fixed = "".join(rng.choice("ABC_") if rng.random() < 0.6 else "_" for _ in range(n))
    texts = rng.sample(PATTERNS, rng.choice((1, 1, 2)))
    cut = rng.randint(1, n - 1) if chains == 2 else n
    names = Numbering(("X",) * cut + ("Y",) * (n - cut), tuple(map(str, range(1, n + 1))))
    return texts, fixed, names, cut


def allowed(texts, fixed, cut) -> list[str]:
    """Return the sequences in which no match holds a free letter."""
    n = len(fixed)
    parts = [p for p in (range(cut), range(cut, n)) if len(p)]
    free = {i for i, a in enumerate(fixed) if a == "_"}
    words = map("".join, itertools.product(*(ABC.letters if a == "_" else a for a in fixed)))
    return [
        w
        for w in words
        if not any(
            touches(t, w[p[0] : p[-1] + 1], {i - p[0] for i in free & set(p)})
            for t in texts
            for p in parts
        )
    ]


@pytest.mark.parametrize("seed", range(150))
def test_what_is_allowed_is_what_enumeration_allows(seed):
    rng = random.Random(seed)
    texts, fixed, names, cut = case(rng, 1 + seed % 2)
    good = allowed(texts, fixed, cut)
    some = tuple(map(Forbid, texts))
    if not good:
        with pytest.raises(ConstraintError):
            DesignSpace(ABC, len(fixed), some, fixed, numbering=names)
        return
    space = DesignSpace(ABC, len(fixed), some, fixed, numbering=names)
    words = ["".join(w) for w in itertools.product("ABC", repeat=len(fixed))]
    words = [w for w in words if all(f in ("_", a) for f, a in zip(fixed, w, strict=True))]
    inside = space.contains(ABC.encode(words)[None])[0].tolist()
    assert [w for w, yes in zip(words, inside, strict=True) if yes] == good
    # the judge of finished sequences agrees
    assert [w for w in words if not space.violations(w)] == good
    # and h is the probability of what is allowed, for any law
    torch.manual_seed(seed)
    log_pi = torch.log_softmax(torch.randn(1, 1, len(fixed), 3, dtype=torch.float64), -1)
    x = space.start(torch.full((1, 1, len(fixed)), ABC.mask))
    unknown = x == ABC.mask
    known = torch.nn.functional.one_hot(x.clamp(max=2), 3).double().log()
    law = torch.where(unknown[..., None], log_pi, known)
    log_h, given = space.condition(CategoricalPosterior(law), x, unknown)
    if not space.exact_lookahead:
        return
    laws = law[0, 0].tolist()
    each = [
        math.exp(sum(row["ABC".index(a)] for row, a in zip(laws, w, strict=True))) for w in good
    ]
    assert float(log_h.exp()) == pytest.approx(sum(each), rel=1e-9)
    for i in range(len(fixed)):
        for a in range(3):
            mass = sum(p for p, w in zip(each, good, strict=True) if w[i] == "ABC"[a])
            assert float(given.log_probs[0, 0, i, a].exp()) == pytest.approx(
                mass / sum(each), abs=1e-9
            )


def test_the_cases_include_matches_of_fixed_letters_alone():
    seen = 0
    for seed in range(150):
        texts, fixed, names, _ = case(random.Random(seed), 1 + seed % 2)
        at = DesignSpace(ABC, len(fixed), (), fixed, numbering=names).at
        inside = any(Forbid(t).automaton(at).kept for t in texts)
        seen += inside and bool(allowed(texts, fixed, len(fixed)))
    assert seen > 10


def test_without_such_matches_nothing_is_another_automaton():
    at = DesignSpace(ABC, 4, (), "AA__").at
    assert Forbid("AB").automaton(at) == pattern("AB", "ABC").refusing
    assert Forbid("AA").automaton(at).kept


def test_both_automata_agree_where_nothing_is_fixed():
    for text in PATTERNS[:-1]:
        asked = pattern(text, "ABC")
        for n in range(1, 5):
            for word in itertools.product(range(3), repeat=n):
                assert (asked.touching.refused(word) is None) == (
                    asked.refusing.refused(word) is None
                )
                # nothing but fixed letters is never judged
                assert asked.touching.refused([a + 3 for a in word]) is None


def test_an_unavoidable_match_names_its_residues():
    wild = "MKNGSTAWC"
    names = Numbering(("A",) * 9, tuple(str(i) for i in range(11, 20)))
    space = {"alphabet": PROTEIN, "length": 9, "wild_type": wild, "numbering": names}
    # N13 and S15 are kept, and G14 may be anything but proline
    with pytest.raises(ConstraintError) as error:
        DesignSpace.build(**space, design="A14, A17", omit="P", constraints=[Forbid("N[^P][ST]")])
    assert "'N[^P][ST]': A13 to A15 match it whatever is designed" in str(error.value)
    # proline there is a way out; and where all three are kept nothing is asked
    one = DesignSpace.build(**space, design="A14, A17", constraints=[Forbid("N[^P][ST]")])
    assert one.violations(wild) == ["A13 to A15 is 'NGS', which matches the forbidden 'N[^P][ST]'"]
    assert not one.violations("MKNPSTAWC")
    two = DesignSpace.build(**space, design="A17-18", constraints=[Forbid("N[^P][ST]")])
    assert not two.violations(wild)


def test_tied_letters_are_fixed_together():
    names = Numbering(("X",) * 3 + ("Y",) * 3, ("1", "2", "3") * 2)
    space = DesignSpace.build(
        ABC, 6, wild_type="AABAAB", design="X3, Y3", numbering=names,
        homo_oligomer=[["X", "Y"]], constraints=[Forbid("AA"), Forbid("AB")],
    )  # fmt: skip
    good = [w for w in map("".join, itertools.product("ABC", repeat=6)) if not space.violations(w)]
    assert good == ["AACAAC"]
