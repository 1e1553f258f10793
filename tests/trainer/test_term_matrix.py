import numpy as np
import pytest

from app.intent.ngram_features import BLOCKS, FeatureSettings, Featuriser
from trainer.term_matrix import TermCounts, assign_folds, count_terms

TEXTS = ("red green", "red red blue", "green", "", "blue sky")
EVEN = dict.fromkeys(BLOCKS, 1.0)


def counts(max_features: int = 1000) -> TermCounts:
    featuriser = Featuriser(FeatureSettings(dictionary=False))
    return count_terms(TEXTS, featuriser, max_features=max_features)


def test_vocabulary_is_sorted_and_every_feature_has_a_text() -> None:
    terms = counts()

    for name in BLOCKS:
        assert list(terms.vocabulary[name]) == sorted(set(terms.vocabulary[name]))
        assert terms.blocks[name].shape == (len(TEXTS), len(terms.vocabulary[name]))
    assert {"red", "red green", "red red", "sky"} <= set(terms.vocabulary["words"])


def test_a_repeated_feature_counts_one_plus_its_logarithm() -> None:
    terms = counts()
    red = terms.vocabulary["words"].index("red")

    column = terms.blocks["words"].toarray()[:, red]

    np.testing.assert_allclose(column, [1.0, 1.0 + np.log(2.0), 0.0, 0.0, 0.0], rtol=1e-6)


def test_the_features_of_fewest_texts_go_when_they_are_too_many() -> None:
    every, few = counts(), counts(max_features=50)

    assert sum(map(len, few.vocabulary.values())) <= 50 < sum(map(len, every.vocabulary.values()))
    assert few.min_texts == 2
    assert few.vocabulary["words"] == ("blue", "green", "red")


def test_document_weights_are_those_of_scikit_learn() -> None:
    from sklearn.feature_extraction.text import TfidfTransformer

    terms = counts()
    everything = np.concatenate([terms.blocks[name].toarray() for name in BLOCKS], axis=1)

    weights = terms.document_weights(np.arange(len(TEXTS)))

    np.testing.assert_allclose(weights, TfidfTransformer().fit(everything).idf_, rtol=1e-6)


def test_a_feature_that_the_rows_do_not_have_weighs_nothing() -> None:
    terms = counts()
    rows = np.array([0, 2])
    weights = terms.document_weights(rows)

    words = dict(zip([w for name in BLOCKS for w in terms.vocabulary[name]], weights, strict=True))
    assert words["sky"] == 0.0
    assert words["green"] > 0.0


def test_rows_have_length_one_whatever_blocks_they_fill() -> None:
    terms = counts()
    everything = np.arange(len(TEXTS))

    matrix = terms.weighted(everything, terms.document_weights(everything), {**EVEN, "words": 0.3})

    np.testing.assert_allclose(np.linalg.norm(matrix.toarray(), axis=1), 1.0, rtol=1e-6)
    assert matrix.dtype == np.float32


def test_a_block_counts_as_much_as_its_weight_says() -> None:
    terms = counts()
    everything = np.arange(len(TEXTS))
    n_sequences = len(terms.vocabulary["sequences"])

    matrix = terms.weighted(everything, terms.document_weights(everything), {**EVEN, "words": 0.5}).toarray()

    sequences, words = matrix[0, :n_sequences], matrix[0, n_sequences:]
    assert np.linalg.norm(words) / np.linalg.norm(sequences) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("n_folds", [2, 3, 4, 10])
def test_no_fold_ever_holds_all_texts_of_a_label(n_folds: int) -> None:
    targets = np.repeat(np.arange(6), [2, 2, 3, 5, 8, 40])

    folds = assign_folds(targets, n_folds, np.random.default_rng(0))

    for label in range(6):
        assert len(set(folds[targets == label])) == min(n_folds, (targets == label).sum())
    sizes = np.bincount(folds, minlength=n_folds)
    assert sizes.max() - sizes.min() <= 1


def test_folds_depend_on_the_seed_alone() -> None:
    targets = np.repeat(np.arange(3), 20)

    first, again, other = (assign_folds(targets, 4, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert (first == again).all()
    assert (first != other).any()
