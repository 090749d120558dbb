"""Agreement of label maps against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from maskmill.numerics.agreement import OPEN, adjusted_rand, agreeing, best_iou, matched_iou, same, table


def maps(seed: int, labels: int, cells: int = 20000) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, labels, cells)


@pytest.mark.parametrize("labels", [2, 7, 40])
def test_the_same_partition_under_other_names_agrees_wholly(labels: int) -> None:
    a = maps(0, labels)
    b = np.random.default_rng(1).permutation(labels)[a]
    for other in (a, b):
        counts = table(a, other, (labels, labels))
        assert adjusted_rand(counts) == 1
        assert matched_iou(counts) == 1
        assert best_iou(counts).tolist() == [1] * labels
        assert same(counts).sum() == labels
        assert agreeing(a, other, same(counts)).all()


def test_independent_partitions_agree_by_chance_only() -> None:
    counts = table(maps(0, 6), maps(1, 9), (6, 9))
    assert abs(adjusted_rand(counts)) < 0.001
    assert matched_iou(counts) < 6 * 0.08 / 9  # 1/54 of the cells of a union of 1/6 + 1/9 - 1/54: 0.071


def test_two_by_two_by_hand() -> None:
    a = np.array([[0, 0, 0, 1], [0, 1, 1, 1]])
    b = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
    counts = table(a, b, (2, 2))
    assert counts.tolist() == [[1, 3], [3, 1]]
    # pairs: together in both 3 + 3, in a 6 + 6, in b 6 + 6, of 28; expected 12 * 12 / 28
    assert adjusted_rand(counts) == pytest.approx((6 - 144 / 28) / (12 - 144 / 28))
    assert matched_iou(counts) == pytest.approx(3 / 5)
    assert best_iou(counts).tolist() == pytest.approx([3 / 5, 3 / 5])
    assert agreeing(a, b, same(counts)).tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_rand_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 5, 300), rng.integers(0, 8, 300)
    b[:150] = a[:150]
    assert adjusted_rand(table(a, b, (5, 8))) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


def test_open_cells_are_in_no_table_and_nothing_is_said_of_them() -> None:
    a, b = np.array([0, OPEN, 1, 1]), np.array([0, 0, OPEN, 1])
    counts = table(a, b, (2, 2))
    assert counts.tolist() == [[1, 0], [0, 1]]
    np.testing.assert_array_equal(agreeing(a, b, same(counts)), [1, np.nan, np.nan, 1])


def test_labels_left_over_join_what_fits_best_but_lower_the_matched_iou() -> None:
    a = np.repeat([0, 1], 8)
    b = np.repeat([0, 1, 2], [8, 5, 3])  # the second label in two parts
    counts = table(a, b, (2, 3))
    assert same(counts).tolist() == [[True, False, False], [False, True, True]]
    assert agreeing(a, b, same(counts)).all()
    assert matched_iou(counts) == pytest.approx((1 + 5 / 8) / 3)
    assert best_iou(counts).tolist() == [1, 5 / 8]


def test_labels_without_a_cell_do_not_count() -> None:
    counts = np.array([[4, 0, 0], [0, 0, 0], [0, 0, 4]])
    assert matched_iou(counts) == 1
    np.testing.assert_array_equal(best_iou(counts), [1, np.nan, 1])
    assert same(counts)[1].sum() == 0
    empty = np.zeros((3, 2), np.int64)
    assert np.isnan(matched_iou(empty))
    assert not same(empty).any()
    assert adjusted_rand(np.array([[9]])) == 1
