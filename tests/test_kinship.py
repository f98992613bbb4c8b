"""Kinship: symmetric, said by the cards, refused where a card is damaged."""

from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from seqalign import registry, weights
from seqalign.kinship import Kin, kin, shared

ROOT = Path(__file__).resolve().parents[1]
CARDS = [*(ROOT / "rewards" / "cards").glob("*.yaml"), *(ROOT / "models" / "cards").glob("*.yaml")]
NAMES = st.frozensets(st.sampled_from("abcd"))
KINS = st.none() | st.builds(Kin, NAMES, NAMES)


@settings(max_examples=60, deadline=None)
@given(KINS, KINS)
def test_kinship_is_symmetric_and_a_name_in_both(one, other):
    found = shared(one, other)
    assert found == shared(other, one)
    if one is None or other is None:
        assert found is None
        return
    for what in ("features", "data"):
        both = getattr(one, what) & getattr(other, what)
        assert {x for x in found if x.startswith(f"{what} ")} == {f"{what} {x}" for x in both}


def test_a_name_is_a_feature_or_data_and_not_either():
    """A network called like a table of measurements has nothing to do with it."""
    assert shared(Kin(frozenset("a")), Kin(data=frozenset("a"))) == ()


def described(kind):
    for name in registry.names(kind):
        own = kin(kind, name, {})
        if own is not None:
            yield name, own


def test_every_described_reward_is_a_twin_of_itself():
    for _, own in described("reward"):
        assert shared(own, own)


def test_every_shipped_card_that_has_a_twin_declares_what_it_shares():
    cards = {path.stem: yaml.safe_load(path.read_text()) for path in CARDS}
    twins = {n for n, c in cards.items() if c.get("holdout_twin") or c.get("twin_of")}
    assert twins
    for name in sorted(twins):
        assert "shares" in cards[name], name
        other = cards[name].get("holdout_twin") or cards[name].get("twin_of")
        if cards[name].get("twin_of") and "shares" in cards[other]:
            assert shared(kin("reward", name, {}), kin("reward", other, {})), (name, other)


def test_judges_of_stability_are_of_another_kind_than_what_learned_from_mega_scale():
    judges = [kin("reward", n, {}) for n in ("ddg-pairs", "ddg-burial")]
    guide = Kin(frozenset({"proteinmpnn"}), frozenset({"megascale"}))
    priors = [kin("model", n, {}) for n in ("proteinmpnn", "mpnn-mini", "esm2", "fmif")]
    others = [guide, kin("reward", "thermompnn", {}), *priors]
    assert all(shared(a, b) == () for a, b in product(judges, others))


@pytest.mark.parametrize(
    ("checkpoint", "model", "foreign"),
    [
        (None, "mpnn-mini", False),
        (None, "proteinmpnn", False),
        ("v_48_020", "proteinmpnn", False),
        ("v_48_020", "mpnn-mini", False),
        ("soluble-v_48_010", "ligandmpnn", False),
        ("fmif", "proteinmpnn", True),
    ],
)
def test_the_likelihood_of_another_network_judges(checkpoint, model, foreign):
    params = {} if checkpoint is None else {"checkpoint": checkpoint}
    assert (shared(kin("reward", "mpnn-score", params), kin("model", model, {})) == ()) is foreign


def test_weights_of_the_users_own_are_not_compared():
    assert kin("reward", "mpnn-score", {"checkpoint": "my/own.pt"}) is None
    assert kin("model", "proteinmpnn", {"checkpoint": Path("own.pt")}) is None


def test_published_weights_say_what_reads_them_shares():
    assert all(entry.features for entry in weights.catalog().values())


def test_a_damaged_field_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "odd_seqalign"
    (folder / "cards").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "parts.py").write_text("")
    info = tmp_path / "odd_seqalign-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-seqalign\nVersion: 1\n")
    points = "[seqalign.rewards]\nodd = odd_seqalign.parts:odd\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    for text, said in (
        ("[megascale]", "shares is"),
        ("{feature: [x]}", "no key 'feature'"),
        ("{data: megascale}", "no list of names"),
        ("{data: [1]}", "no list of names"),
    ):
        (folder / "cards" / "odd.yaml").write_text(f"summary: odd\nshares: {text}\n")
        with pytest.raises(registry.SpecError, match=said):
            registry.card("reward", "odd")
    (folder / "cards" / "odd.yaml").write_text("summary: odd\nshares: {}\n")
    assert kin("reward", "odd", {}) == Kin(frozenset({"odd"}))
