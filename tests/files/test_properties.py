"""What the letters of a chain say: as Biopython, as the rewards, and as a plain look."""

from __future__ import annotations

import random
import re

import pytest
from Bio.SeqUtils.ProtParam import ProteinAnalysis

from seqalign.core.process import Designs
from seqalign.core.sequence import DNA, PROTEIN
from seqalign.files.orderable import Orderable, Record
from seqalign.files.ordering import NUMBER, TEXT, WHOLE, Ordering
from seqalign.files.properties import NUMBERS, Liability, liabilities, numbers
from seqalign.load import load_reward

RANDOM = random.Random(11)
REWARDS = {
    "mw": "molecular-weight",
    "pI": "isoelectric-point",
    "eps280": "extinction-coefficient",
    "charge": "charge",
}


def protein(length: int, letters: str = PROTEIN.letters) -> str:
    return "".join(RANDOM.choice(letters) for _ in range(length))


@pytest.mark.parametrize("column", REWARDS)
def test_a_column_is_the_reward_of_the_same_property(column):
    chains = [protein(40) for _ in range(20)]
    reward = load_reward(REWARDS[column])
    expected = reward(Designs.of(chains, PROTEIN))[0].tolist()
    assert [numbers([chain])[column] for chain in chains] == pytest.approx(expected, abs=1e-4)


def test_chains_together_are_their_sums_and_the_zero_of_their_charge():
    for _ in range(20):
        chains = [protein(RANDOM.randint(5, 60)) for _ in range(RANDOM.randint(2, 4))]
        whole, each = numbers(chains), [numbers([chain]) for chain in chains]
        for name in set(NUMBERS) - {"pI"}:
            assert whole[name] == pytest.approx(sum(one[name] for one in each))
        at = sum(ProteinAnalysis(chain).charge_at_pH(whole["pI"]) for chain in chains)
        assert at == pytest.approx(0, abs=0.05) or not 4.06 < whole["pI"] < 11.99
        assert min(e["pI"] for e in each) - 1e-3 < whole["pI"] < max(e["pI"] for e in each) + 1e-3
    assert numbers(chains) == pytest.approx(numbers(chains[::-1]))


@pytest.mark.parametrize("odd", ["X", "-", "*", "U"])
def test_a_letter_that_is_not_known_leaves_no_number(odd):
    assert set(numbers(["ACDW", f"AC{odd}W"]).values()) == {None}
    for nothing in ([], [""], ["ACD", ""]):
        assert set(numbers(nothing).values()) == {None}


def looked_up(chain: str) -> set[tuple[str, int, int]]:
    """The liabilities of a chain, by a window moved letter by letter."""
    found = set()
    for i in range(len(chain)):
        three = chain[i : i + 3]
        if len(three) == 3 and three[0] == "N" and three[1] not in "PX" and three[2] in "ST":
            found.add(("N-glyc", i, 3))
        if chain[i : i + 2] in ("NG", "DG", "DP"):
            found.add((chain[i : i + 2], i, 2))
        for kind, least, some in (
            *((f"poly-{a}", 5, a) for a in PROTEIN.letters),
            ("hydrophobic", 6, "FILMVWY"),
        ):
            if i and chain[i - 1] in some:
                continue
            n = i
            while n < len(chain) and chain[n] in some:
                n += 1
            if n - i >= least:
                found.add((kind, i, n - i))
    if "X" not in chain and chain.count("C") % 2:
        found.add(("unpaired-Cys", 0, 0))
    return found


def test_liabilities_are_those_of_a_plain_look():
    kinds = set()
    for n in range(2000):
        chain = protein(RANDOM.randint(1, 40), ("NGSTPDX", "ILVFA", "AC", PROTEIN.letters)[n % 4])
        found = liabilities(chain)
        assert {(x.kind, x.start, x.size) for x in found} == looked_up(chain)
        assert len(found) == len(set(found))
        kinds |= {x.kind for x in found}
    assert {"N-glyc", "NG", "DG", "DP", "hydrophobic", "unpaired-Cys", "poly-A"} <= kinds


def test_places_are_named_by_author_numbers():
    numbers_ = ["52", "52a", "53", "", "", "60", "61", "62", "63", "64"]
    assert Liability("NG", 1, 2).text("H", numbers_) == "NG H52a"
    assert Liability("poly-A", 4, 6).text("H", numbers_) == "poly-A H53+2-H64"
    assert Liability("unpaired-Cys", 0, 0).text("H", numbers_) == "unpaired-Cys H"
    assert Liability("NG", 1, 2).text("H", [""] * 3) == "NG H+2"


def orderable(*chains: str) -> Orderable:
    """Chains A, B, ... whose letters are all open, numbered from 101."""
    starts = [sum(map(len, chains[:i])) for i in range(len(chains))]
    records = tuple(
        Record(("ABC"[i],), tuple(range(s, s + len(c))), tuple(str(101 + j) for j in range(len(c))))
        for i, (s, c) in enumerate(zip(starts, chains, strict=True))
    )
    names = tuple("ABC"[: len(chains)])
    return Orderable("x", records, names, (), "_" * sum(map(len, chains)))


def test_what_the_wild_type_has_is_not_new():
    own = Ordering(orderable("ANGAAAA"), PROTEIN.letters, "ANGAAAA")
    row = own.row("ANGAAAA")
    assert (row["liabilities"], row["n_liabilities"], row["new_liabilities"]) == ("NG A102", 1, 0)
    row = own.row("ANGADGC")
    assert row["liabilities"] == "NG A102; DG A105 (new); unpaired-Cys A (new)"
    assert (row["n_liabilities"], row["new_liabilities"]) == (3, 2)
    # a run that grew is the same run
    run = Ordering(orderable("KKKKKAAA"), PROTEIN.letters, "KKKKKAAA")
    assert run.row("KKKKKKAA")["new_liabilities"] == 0
    assert run.row("AAARKKKK")["new_liabilities"] == 0
    assert run.row("RRRRRAAA")["new_liabilities"] == 1
    nothing = Ordering(orderable("ANGAAAA"), PROTEIN.letters, None)
    assert "new_liabilities" not in {*nothing.row("ANGAAAA"), *nothing.whole}


def test_columns_and_rows_name_the_same():
    for chains in (("ANGW",), ("ANGW", "CCK")):
        for letters in (PROTEIN.letters, DNA.letters, "01"):
            for wild in ("".join(chains), None):
                own = Ordering(orderable(*chains), letters, wild)
                sequence = "/".join(chains if letters == PROTEIN.letters else map(len_of, chains))
                names = [*own.sequences, *own.whole, *own.each]
                assert set(own.row(sequence)) == set(names)
                assert len(names) == len(set(names))
                for name in names:
                    value = own.row(sequence)[name]
                    assert isinstance(value, str) == bool(TEXT.fullmatch(name))
                    assert isinstance(value, int) == bool(WHOLE.fullmatch(name)), name
                    assert isinstance(value, str) or NUMBER.fullmatch(name)


def len_of(chain: str) -> str:
    return "0" * len(chain) if len(chain) % 2 else "ACGT"[: len(chain)]


def test_numbers_of_all_chains_and_of_each():
    own = Ordering(orderable("ANGW", "CCK"), PROTEIN.letters, "ANGWCCK")
    row = own.row("ANGW/CCK")
    assert (row["sequence_A"], row["sequence_B"]) == ("ANGW", "CCK")
    assert (row["length"], row["length_A"], row["length_B"]) == (7, 4, 3)
    assert (row["cysteines"], row["cysteines_A"], row["eps280_A"]) == (2, 0, 5500)
    assert row["mw"] == pytest.approx(row["mw_A"] + row["mw_B"], abs=0.11)
    assert row["liabilities"] == "NG A102"
    unknown = own.row("ANGW/CXK")
    assert [unknown[name] is None for name in ("mw", "mw_A", "mw_B")] == [True, False, True]
    assert unknown["length"] == 7
    dna = Ordering(orderable("ACGT"), DNA.letters, None)
    assert dna.row("GGGT") == {"length": 4, "gc": 0.75}


def test_labels_of_chains_fit_columns_and_files_and_differ():
    draw = random.Random(5)
    for _ in range(500):
        names = {"".join(draw.choices("AB2=<. é-", k=draw.randint(0, 3))) for _ in range(4)}
        records = tuple(Record((name, "Z"), (0,), ("1",)) for name in sorted(names))
        some = Orderable("x", records, tuple(names), (), "_")
        labels, ids = some.labels, some.ids("d0001")
        assert len(set(labels)) == len(set(ids)) == len(names)
        assert len(names) == 1 or all(re.fullmatch(r"d0001_[\w-]+", name) for name in ids)
        assert len(names) > 1 or ids == ["d0001"]
        own = Ordering(some, PROTEIN.letters, None)
        columns = [*own.sequences, *own.whole, *own.each]
        assert len(columns) == len(set(columns))
