from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.artifacts.base_models import BaseModelUnusable
from tests.trainer.generative.bases import write_base
from trainer.generative.causal_model import load_causal, narrowed
from trainer.generative.label_trie import TrieReader, build_trie, require_tree

END = 0
ANSWERS = ([5, 6, 7, END], [5, 6, 8, END], [5, END], [9, 6, 7, END], [5, 6, 7, 7, END])
PROMPT = [11, 12, 13, 14, 15, 16, 17]
VOCABULARY = sorted({token for answer in ANSWERS for token in answer} | {40})


class _Merged:
    """Stands where an adapter would: `narrowed` asks it for the model with the adapter worked in."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def merge_and_unload(self) -> Any:
        return self._model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def reader(folder: Path) -> TrieReader:
    return TrieReader(narrowed(_Merged(load_causal(folder, "float32")), VOCABULARY), VOCABULARY)


def by_hand(folder: Path, answer: list[int], prompt: list[int] = PROMPT) -> float:
    """log P(answer | prompt) from one plain run over the whole sequence."""
    model = load_causal(folder, "float32")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double()
    logged = torch.log_softmax(logits[:, VOCABULARY], dim=-1)
    return sum(float(logged[len(prompt) + i - 1, VOCABULARY.index(token)]) for i, token in enumerate(answer))


def test_answers_share_the_nodes_of_their_first_tokens() -> None:
    trie = build_trie(ANSWERS)
    assert trie.tokens == (5, 6, 7, 8, 9, 6, 7, 7)
    assert trie.parents == (-1, 0, 1, 1, -1, 4, 5, 2)
    assert trie.depths == (0, 1, 2, 2, 0, 1, 2, 3)


def test_trie_scores_are_those_of_each_whole_sequence(folder: Path, reader: TrieReader) -> None:
    expected = [by_hand(folder, answer) for answer in ANSWERS]
    assert reader.score(build_trie(ANSWERS), PROMPT) == pytest.approx(expected, abs=1e-5)


def test_plain_score_is_that_of_the_whole_sequence(folder: Path, reader: TrieReader) -> None:
    plain = [reader.score_plainly(PROMPT, answer) for answer in ANSWERS]
    assert plain == pytest.approx([by_hand(folder, answer) for answer in ANSWERS], abs=1e-5)


def test_a_head_that_was_read_before_changes_no_score(folder: Path, reader: TrieReader) -> None:
    trie, head = build_trie(ANSWERS), reader.read_head(PROMPT[:4])
    first = reader.score(trie, PROMPT[4:], head)
    assert first == pytest.approx(reader.score(trie, PROMPT), abs=1e-5)
    # What one text left behind must not be there for the next.
    other = reader.score(trie, [21, 22], head)
    assert other == pytest.approx([by_hand(folder, answer, [*PROMPT[:4], 21, 22]) for answer in ANSWERS], abs=1e-5)
    assert reader.score(trie, PROMPT[4:], head).tolist() == first.tolist()


def test_score_does_not_depend_on_the_other_answers(reader: TrieReader) -> None:
    alone = [reader.score(build_trie([answer]), PROMPT)[0] for answer in ANSWERS]
    assert reader.score(build_trie(ANSWERS), PROMPT) == pytest.approx(alone, abs=1e-5)


def test_one_token_answers_need_no_node(folder: Path, reader: TrieReader) -> None:
    trie = build_trie([[5], [9], [40]])
    assert trie.tokens == ()
    assert reader.score(trie, PROMPT) == pytest.approx([by_hand(folder, [t]) for t in (5, 9, 40)], abs=1e-5)


def test_probabilities_of_all_answers_of_one_token_sum_to_one(reader: TrieReader) -> None:
    assert np.exp(reader.score(build_trie([[token] for token in VOCABULARY]), PROMPT)).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("answers", [[[]], [[1, 0], [1, 0]], [[1], []]])
def test_answers_that_cannot_be_told_apart_are_refused(answers: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="distinct"):
        build_trie(answers)


def test_causal_model_can_be_read_over_a_trie(folder: Path) -> None:
    require_tree(load_causal(folder, "float32"))
    require_tree(load_causal(folder, "bfloat16"))


def test_model_that_reads_both_ways_is_refused() -> None:
    """It would see the answer while it is taught, and learn nothing."""
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    model = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=2, initializer_range=0.5)).eval()
    with pytest.raises(BaseModelUnusable, match="does not follow an attention mask"):
        require_tree(model)
