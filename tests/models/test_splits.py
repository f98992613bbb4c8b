"""The split rules: the same on every machine, whole clusters, independent of the row order."""

import numpy as np
import pytest

from seqalign.models.splits import (
    GAP,
    bucket,
    cluster_parts,
    nearest_identity,
    part,
    redundancy_weights,
    sequence_clusters,
    spell,
    substitution_key,
)


def family(seed: int = 0, founders: int = 12, copies: int = 8, length: int = 40) -> np.ndarray:
    """Distinct rows around random founders, with some gaps."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.integers(0, 20, (founders, length)), copies, axis=0)
    rate = np.tile(np.linspace(0.0, 0.6, copies), founders)[:, None]
    rows = np.where(rng.random(rows.shape) < rate, rng.integers(0, 20, rows.shape), rows)
    rows = np.where(rng.random(rows.shape) < 0.05, GAP, rows)
    return np.unique(rows, axis=0)


def identity(a: np.ndarray, b: np.ndarray) -> float:
    aligned = (a != GAP) & (b != GAP)
    return float((a == b)[aligned].mean())


def test_bucket_never_changes():
    # Changing any of these moves rows between training and test of shipped weights.
    assert [bucket(key, "salt", 100) for key in ("", "a", "9I")] == [47, 19, 97]
    assert bucket("9I", "other", 100) != bucket("9I", "salt", 100)
    assert substitution_key(9, "I") == "9I"


def test_buckets_are_even():
    counts = np.bincount([bucket(str(i), "even", 10) for i in range(20_000)], minlength=10)
    assert abs(counts - 2000).max() < 4.5 * np.sqrt(2000 * 0.9)


def test_parts_have_the_shares_asked_for():
    parts = [part(str(i), "shares", test=20, validation=10) for i in range(5000)]
    assert abs(parts.count("test") / 5000 - 0.2) < 0.03
    assert abs(parts.count("validation") / 5000 - 0.1) < 0.02


@pytest.mark.parametrize(("test", "validation"), [(-1, 5), (60, 40)])
def test_parts_that_leave_nothing_are_refused(test: int, validation: int):
    with pytest.raises(ValueError, match="nothing for training"):
        part("a", "salt", test=test, validation=validation)


def test_no_buckets_are_refused():
    with pytest.raises(ValueError, match="at least 1 bucket"):
        bucket("a", "salt", 0)


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8, 1.0])
def test_members_are_close_to_their_representative_and_representatives_are_not(threshold: float):
    rows = family()
    clusters = sequence_clusters(rows, threshold)
    for row, chosen in zip(rows, clusters, strict=True):
        assert identity(row, rows[chosen]) >= threshold
    chosen = np.unique(clusters)
    assert np.array_equal(clusters[chosen], chosen)
    for i in chosen:
        assert all(identity(rows[i], rows[j]) < threshold for j in chosen if i != j)


def test_order_of_the_rows_does_not_matter():
    rows = family()
    order = np.random.default_rng(1).permutation(len(rows))
    clusters, shuffled = sequence_clusters(rows, 0.6), sequence_clusters(rows[order], 0.6)
    assert np.array_equal(rows[clusters][order], rows[order][shuffled])
    parts = cluster_parts(rows, clusters, "salt")
    assert np.array_equal(parts[order], cluster_parts(rows[order], shuffled, "salt"))


def test_no_cluster_straddles_a_border():
    rows = family(founders=60)
    clusters = sequence_clusters(rows, 0.6)
    parts = cluster_parts(rows, clusters, "salt")
    assert set(parts) == {"train", "validation", "test"}
    for cluster in np.unique(clusters):
        assert len(set(parts[clusters == cluster])) == 1


def test_weights_count_clusters():
    rows = family()
    clusters = sequence_clusters(rows, 0.6)
    assert redundancy_weights(clusters).sum() == pytest.approx(len(np.unique(clusters)))


def test_nearest_identity_is_brute_force():
    rows = family()
    queries, references = rows[:20], rows[20:]
    brute = [max(identity(q, r) for r in references) for q in queries]
    assert nearest_identity(queries, references) == pytest.approx(brute)


def test_bad_thresholds_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"fraction in \(0, 1\]"):
        sequence_clusters(family(), 60)
    with pytest.raises(ValueError, match=r"\(N, L\) is needed"):
        sequence_clusters(np.zeros(3, dtype=np.int64), 0.6)


def test_spelling():
    assert spell([0, 19, GAP]) == "AY-"
