"""Variants: every notation of a list of mutations reads as the letters it names, or is refused."""

from __future__ import annotations

import random
import re

import pytest
from Bio.SeqUtils import seq3

from seqalign.files.numbering import Numbering
from seqalign.files.orderable import Orderable
from seqalign.files.residues import LETTERS
from seqalign.files.variants import (
    NotAVariant,
    Offset,
    VariantError,
    Variants,
    WrongWildType,
    is_wild_type,
)

GB1 = "MQYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
SITES = (38, 39, 40, 53)
PLAIN = Variants(Numbering.plain(56), GB1, SITES)
# a heavy chain with insertion codes, numbers from -2, and a light chain whose numbers it shares
CHAINS = Numbering(
    ("H",) * 8 + ("L",) * 4,
    ("-2", "-1", "52", "52A", "52F", "53", "100", "101", "52", "53", "54", "55"),
)
FAB = Variants(CHAINS, "MKSTFWYAMKTA", (2, 3, 4))


def changed(wild, **letters):
    found = list(wild)
    for name, letter in letters.items():
        found[int(name[1:])] = letter
    return "".join(found)


V39A = changed(GB1, i38="A")
BOTH = changed(GB1, i38="A", i39="G")
SAME = {
    V39A: [
        "V39A", "v39a", " V39A ", "Val39Ala", "VAL39ALA", "p.Val39Ala", "p.(Val39Ala)", "p.V39A",
        "p.[Val39Ala]", "NP_000509.1:p.Val39Ala", "ENSP00000333333.2:p.(Val39Ala)", "A:V39A",
        "V39A:D40D", "V39A,D40=", "p.[Val39Ala;Asp40=]", "(V39A)", "ADGV", "adgv", V39A,
    ],
    BOTH: [
        "V39A:D40G", "V39A,D40G", "V39A;D40G", "V39A+D40G", "V39A/D40G", "V39A D40G", "V39A_D40G",
        "V39A, D40G", "D40G:V39A", "A:V39A:A:D40G", "A:V39A:D40G", "p.[Val39Ala;Asp40Gly]",
        "p.[(Val39Ala);(Asp40Gly)]", "p.Val39Ala;p.Asp40Gly", "V39A:p.Asp40Gly", "(V39A),(D40G)",
        "NP_1.1:p.Val39Ala,NP_1.1:p.Asp40Gly", "Val39Ala/Asp40Gly", "V39A & D40G", "AGGV",
    ],
    GB1: ["WT", "wt", "_wt", "Wild_Type", "wild-type", "wild type", "p.=", "p.(=)", "=", "V39V",
          "p.Val39=", "VDGV", "none", "_sy"],
}  # fmt: skip


@pytest.mark.parametrize(("letters", "text"), [(k, t) for k, v in SAME.items() for t in v])
def test_one_variant_in_any_notation_is_the_same(letters, text):
    assert PLAIN.letters(text) == letters


FAB_SAME = {
    "H:S52F": changed(FAB.wild_type, i2="F"),
    "SH52F": changed(FAB.wild_type, i2="F"),
    "T52aF": changed(FAB.wild_type, i3="F"),
    "H:T52AF": changed(FAB.wild_type, i3="F"),
    "F52fS": changed(FAB.wild_type, i4="S"),
    "H:F52FS": changed(FAB.wild_type, i4="S"),
    "Thr52aPhe": changed(FAB.wild_type, i3="F"),
    "M-2V": changed(FAB.wild_type, i0="V"),
    "H:M-2V+L:M52A": changed(FAB.wild_type, i0="V", i8="A"),
    "H:S52F:L:K53R:T54S": changed(FAB.wild_type, i2="F", i9="R", i10="S"),
    "Y100W": changed(FAB.wild_type, i6="W"),
}


@pytest.mark.parametrize("text", FAB_SAME)
def test_chains_and_insertion_codes(text):
    assert FAB.letters(text) == FAB_SAME[text]


REFUSED = {
    "A39V": (WrongWildType, "the wild type at 39 is V, not A"),
    "V39A:Q40G": (WrongWildType, "the wild type at 40 is D, not Q as Q40G says"),
    "V390A": (WrongWildType, "'390' is outside positions 1-56"),
    "V0A": (WrongWildType, "'0' is outside"),
    "V39del": (VariantError, "is a deletion"),
    "p.Val39del": (VariantError, "is a deletion"),
    "p.Val39_Gly41del": (VariantError, "is a deletion"),
    "V39-": (VariantError, "is a deletion"),
    "ΔV39": (VariantError, "is a deletion"),
    "p.Val39_Asp40insGly": (VariantError, "is an insertion"),
    "p.Val39dup": (VariantError, "is a duplication"),
    "p.Val39delinsAlaGly": (VariantError, "exchanges a stretch"),
    "p.Val39Ter": (VariantError, "is a stop codon"),
    "p.Val39*": (VariantError, "is a stop codon"),
    "V39*": (VariantError, "is a stop codon"),
    "V39stop": (VariantError, "is a stop codon"),
    "p.Val39fs": (VariantError, "is a frameshift"),
    "p.Val39AlafsTer12": (VariantError, "is a frameshift"),
    "Val39fsX": (VariantError, "is a frameshift"),
    "p.Val39_Ala41delfs": (VariantError, "is a"),
    "V39fs": (VariantError, "is a frameshift"),
    "p.Met1ext-5": (VariantError, "is an extension"),
    "p.Met1?": (VariantError, "is an unknown change"),
    "p.Val39Xaa": (VariantError, "is an unknown change"),
    "p.[Val39Ala];[Asp40Gly]": (VariantError, "two alleles"),
    "V39A:V39G": (VariantError, "the same residue"),
    "V39X": (VariantError, "the letter at 39 is 'X'"),
    "V39B": (VariantError, "the letter at 39 is 'B'"),
    "V39": (NotAVariant, "cannot read 'V39'"),
    "39A": (NotAVariant, "cannot read '39A'"),
    "V39A]": (NotAVariant, "cannot read 'V39A]'"),
    "V]39A": (NotAVariant, "cannot read 'V]39A'"),
    "V39AA:D40G": (WrongWildType, "'39A' is outside positions"),
    "V39:p.Asp40Gly": (VariantError, "cannot read 'V39'"),
    "clone:V39A": (VariantError, "cannot read 'clone'"),
    "V39AD40G": (NotAVariant, "cannot read 'V39AD40G'"),
    "V39A or not": (VariantError, "cannot read 'or'"),
    "c.115G>A": (NotAVariant, "a change of DNA"),
    "NM_000518.5:c.20A>T": (NotAVariant, "a change of DNA"),
    "clone seven": (NotAVariant, "cannot read 'clone'"),
    "VDG": (NotAVariant, "a Combo of 4 letters"),
    "": (NotAVariant, "write WT"),
    ":": (NotAVariant, "write WT"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_substitution_is_said(text):
    kind, words = REFUSED[text]
    with pytest.raises(VariantError, match=re.escape(words)) as error:
        PLAIN.letters(text)
    assert error.type is kind


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("S52F", VariantError, "S52F can be of several chains; write H:S52F or L:S52F"),
        ("X:S52F", WrongWildType, "names chain 'X', which is not there"),
        ("H:S54F", WrongWildType, "is not in the structure"),
        ("L:S52F", WrongWildType, "the wild type at L52 is M, not S"),
        ("H:S52fs", VariantError, "the wild type at H52F is F"),
    ],
)
def test_places_are_those_of_the_residue_language(text, kind, words):
    with pytest.raises(VariantError, match=re.escape(words)) as error:
        FAB.letters(text)
    assert issubclass(error.type, kind)


def test_a_combo_has_a_letter_per_designed_position():
    assert PLAIN.combo("adgv") == V39A
    assert PLAIN.combo("WT") == GB1
    for text in ("ADG", "AßG", "A DG V", "A-DG", "ADGVV"):
        with pytest.raises(VariantError, match="it takes 4 letters"):
            PLAIN.combo(text)
    two = Variants(PLAIN.numbering, GB1, SITES[:2])
    assert two.combo("WT") == changed(GB1, i38="W", i39="T")
    with pytest.raises(VariantError, match="both the wild type and letters"):
        two.letters("WT")
    assert two.letters("p.=") == GB1


def test_tied_positions_take_one_letter():
    """What is said of one chain of a homo-oligomer holds for the others."""
    names = Numbering(("A",) * 3 + ("B",) * 3, ("1", "2", "3") * 2)
    dimer = Variants(names, "MKTMKT", (1, 2, 4, 5), ties=((1, 4), (2, 5)))
    for text in ("K2A", "A:K2A", "B:K2A", "A:K2A+B:K2A", "AT"):
        assert dimer.letters(text) == "MATMAT", text
    with pytest.raises(VariantError, match="several chains"):
        dimer.letters("M1A")
    assert dimer.letters("A:M1A") == "AKTMKT"


def test_wild_types_by_name():
    assert all(map(is_wild_type, ("WT", "wt ", "_wt", "wild type", "p.=", "None")))
    assert not any(map(is_wild_type, ("", "A1L", "w", "parent", "-", "SY")))


def written(rng, some):
    """A list of (wild, number, letter) in one notation of many."""
    joint = rng.choice([":", ",", ";", "+", "/", " ", "_", ", ", "; "])
    match rng.randrange(5):
        case 0:
            return joint.join(f"{w}{n}{a}" for w, n, a in some)
        case 1:
            return joint.join(f"{seq3(w)}{n}{seq3(a)}" for w, n, a in some)
        case 2:
            return f"p.[{';'.join(f'{seq3(w)}{n}{seq3(a)}' for w, n, a in some)}]"
        case 3:
            return joint.join(f"A:{w}{n}{a}" for w, n, a in some)
        case _:
            return joint.join(f"{w}{n}{a}" for w, n, a in some).lower()


def test_what_is_written_is_read_back():
    rng = random.Random(5)
    order = Orderable.of(GB1, Numbering.plain(len(GB1)))
    for _ in range(2_000):
        places = rng.sample(range(56), rng.randint(1, 6))
        letters = {i: rng.choice(LETTERS) for i in places}
        text = written(rng, [(GB1[i], i + 1, a) for i, a in letters.items()])
        assert PLAIN.letters(text) == changed(GB1, **{f"i{i}": a for i, a in letters.items()}), text
        said = order.mutated(PLAIN.letters(text), GB1) or "WT"
        assert PLAIN.letters(said) == PLAIN.letters(text)


def test_damaged_variants_are_read_as_written_or_refused():
    """No traceback, and no mutation that the text does not name."""
    rng = random.Random(6)
    read = refused = 0
    for _ in range(4_000):
        places = rng.sample(range(56), rng.randint(1, 3))
        text = ":".join(f"{GB1[i]}{i + 1}{rng.choice(LETTERS)}" for i in places)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(text))
            odd = rng.choice("AVDG0149:;,+/_ =*-?.()[]pdelinsfsTer\x00é")
            text = text[:at] + odd * rng.randint(0, 2) + text[at + rng.randint(0, 1) :]
        try:
            letters = PLAIN.letters(text)
        except VariantError:
            refused += 1
            continue
        read += 1
        if text.isalpha():  # a Combo
            continue
        plain = {(w, int(n), a) for w, n, a in re.findall(r"([A-Z])(\d+)([A-Z])", text.upper())}
        found = {(w, i, a) for i, (w, a) in enumerate(zip(GB1, letters, strict=True), 1) if a != w}
        assert found <= plain, text
        assert all(letters[n - 1] == a for _, n, a in plain), text
    assert min(read, refused) > 300


# numbers of somebody else -----------------------------------------------------------------------


def shifted(offset, n=40, seed=1):
    rng = random.Random(seed)
    places = [rng.randrange(56) for _ in range(n)]
    return [f"{GB1[i]}{i + 1 - offset}{rng.choice(LETTERS)}" for i in places]


@pytest.mark.parametrize("offset", [2, 1, -10, 30, -300])
def test_the_offset_that_would_fit_is_named(offset):
    texts = shifted(offset)
    verb = f"add {offset} to" if offset > 0 else f"subtract {-offset} from"
    said = f"all {len(texts)} variants of this file would fit with an offset of {offset:+d}: {verb}"
    assert str(PLAIN.offset(texts)).startswith(said)
    assert str(PLAIN.offset([*texts, "clone 7"])).startswith(said)
    most = PLAIN.offset([*texts, "W1A", "C2A", "C999999999A"])
    assert most == Offset(offset, len(texts), len(texts) + 3)
    assert str(most).startswith(f"{len(texts)} of the {len(texts) + 3} variants")


def test_no_offset_is_named_by_chance():
    assert PLAIN.offset(shifted(0)) is None
    assert PLAIN.offset([]) is None
    assert PLAIN.offset(["D38A", "G39A"]) is None
    rng = random.Random(3)
    odd = [f"{rng.choice(LETTERS)}{rng.randint(1, 56)}A" for _ in range(100)]
    assert PLAIN.offset(odd) is None
    # a chain and its insertion codes are left where they are
    assert FAB.offset(["H:S50A", "H:T50aA", "H:W51F", "H:Y98F"]) == Offset(2, 4, 4)
