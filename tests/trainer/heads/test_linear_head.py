import numpy as np
from numpy.typing import NDArray

from trainer.heads.linear_head import LinearHead, centroid_head, fitted_head, grown_head
from trainer.logistic import softmax


def clouds(labels: int, count: int = 20, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`count` unit vectors around each label's own direction."""
    rng = np.random.default_rng(seed)
    centres = np.eye(16)[:labels]
    points = np.repeat(centres, count, axis=0) + 0.25 * rng.normal(size=(labels * count, 16))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32), np.repeat(np.arange(labels), count)


def test_a_centroid_head_names_the_nearest_centroid_and_is_neither_sure_nor_flat() -> None:
    points, targets = clouds(4)
    head = centroid_head(points, targets, 4)
    centroids = np.stack([points[targets == label].mean(axis=0) for label in range(4)])
    nearest = ((points[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)

    assert head.logits(points).argmax(axis=1).tolist() == nearest.tolist()
    assert 0.6 < softmax(head.logits(points)).max(axis=1).mean() <= 1.0


def test_a_centroid_head_suits_embeddings_of_any_length() -> None:
    points, targets = clouds(4)

    for length in (1e-3, 1.0, 1e3):
        answers = softmax(centroid_head((points * length).astype(np.float32), targets, 4).logits(points * length))
        assert 0.6 < answers[np.arange(80), targets].mean() <= 1.0, length


def test_a_grown_head_keeps_the_known_rows_to_the_last_bit() -> None:
    points, targets = clouds(4)
    old = fitted_head(points[targets < 3], targets[targets < 3], 3, label_balance=0.0)
    head = grown_head(old, [2, None, 0, 1], points, np.array([2, 3, 0, 1])[targets])

    assert head.weights[:, [0, 2, 3]].tolist() == old.weights[:, [2, 0, 1]].tolist()
    assert head.bias[[0, 2, 3]].tolist() == old.bias[[2, 0, 1]].tolist()


def test_a_new_label_is_known_from_the_start_and_takes_nothing_from_the_others() -> None:
    points, targets = clouds(5)
    old = fitted_head(points[targets < 4], targets[targets < 4], 4, label_balance=0.0)
    unseen, truth = clouds(5, seed=1)

    answers = grown_head(old, [0, 1, 2, 3, None], points, targets).logits(unseen).argmax(axis=1)

    assert (answers[truth == 4] == 4).mean() > 0.9
    assert (answers[truth != 4] == truth[truth != 4]).mean() > 0.9


def test_a_fitted_head_is_the_regression_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    points, targets = clouds(4)
    head = fitted_head(points, targets, 4, label_balance=0.0)
    expected = LogisticRegression(C=20.0, max_iter=1000, tol=1e-6).fit(points, targets).predict_proba(points)

    np.testing.assert_allclose(softmax(head.logits(points)), expected, atol=0.01)


def test_logits_are_the_linear_map() -> None:
    head = LinearHead(np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32), np.array([0.5, 0.0], dtype=np.float32))

    assert head.logits(np.array([[1.0, 1.0]], dtype=np.float32)).tolist() == [[1.5, 2.0]]
