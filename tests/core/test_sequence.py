"""Alphabets: encode and decode are inverse, and a letter that does not belong is named with its
place.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqalign.core.sequence import DNA, PROTEIN, RNA, Alphabet


@pytest.mark.parametrize(("alphabet", "size"), [(PROTEIN, 20), (DNA, 4), (RNA, 4)])
def test_letters_tokens_and_mask(alphabet, size):
    assert len(alphabet) == size
    assert alphabet.mask == size
    assert alphabet.encode([alphabet.letters + "_"])[0].tolist() == list(range(size + 1))
    assert alphabet.decode(torch.arange(size + 1)[None]) == [alphabet.letters + "_"]


@given(
    st.integers(0, 8).flatmap(
        lambda n: st.lists(st.text(alphabet=PROTEIN.letters + "_", min_size=n, max_size=n))
    )
)
def test_encode_and_decode_are_inverse(words):
    tokens = PROTEIN.encode(words)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (len(words), len(words[0]) if words else 0)
    assert PROTEIN.decode(tokens) == words


@pytest.mark.parametrize("bad", ["B", "a", " ", "-", "*"])
def test_an_unknown_letter_is_named_with_its_place(bad):
    with pytest.raises(ValueError, match="Sequence 2, position 3"):
        PROTEIN.encode(["AAAA", f"AA{bad}A"])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        DNA.encode(["A", "AC"])


@pytest.mark.parametrize(
    ("letters", "mask", "message"),
    [("", "_", "not empty"), ("AAB", "_", "distinct"), ("AB_", "_", "mask symbol")],
)
def test_bad_alphabets_are_refused(letters, mask, message):
    with pytest.raises(ValueError, match=message):
        Alphabet(letters, mask)
