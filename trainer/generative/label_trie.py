"""Score labels word by word: a trie of their tokens, read by a causal model in one run behind a shared prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.artifacts.base_models import BaseModelUnusable
from app.intent.arrays import FloatArray, IntArray

# Keys and values of each layer over a prompt's head, shape (1, heads, tokens, width).
Cache = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class LabelTrie:
    """Answers that share their first tokens share the nodes for them.

    Args:
        tokens: the token of each node; a parent stands before its children.
        parents: the parent of each node, -1 where the prompt is.
        depths: shape (n_nodes,), 0 for a first token.
        answers: for each answer its path of (parent, token) steps as two arrays; the parent is -1 for the prompt.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    answers: tuple[tuple[IntArray, IntArray], ...]


def build_trie(answers: Sequence[Sequence[int]]) -> LabelTrie:
    """The trie of token sequences. Their last tokens are scored and never read, so they make no nodes.

    Each sequence ends in what ends an answer, or is alone in its first tokens.

    Raises:
        ValueError: a sequence is empty, or two are the same.
    """
    if not all(answers) or len({tuple(answer) for answer in answers}) != len(answers):
        raise ValueError("answers must be distinct and have at least one token")
    nodes: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    steps = []
    for answer in answers:
        place, before = -1, [-1]
        for depth, token in enumerate(answer[:-1]):
            found = nodes.get((place, token))
            if found is None:
                found = nodes[place, token] = len(tokens)
                tokens.append(token)
                parents.append(place)
                depths.append(depth)
            place = found
            before.append(place)
        steps.append((np.array(before, dtype=np.int64), np.array(answer, dtype=np.int64)))
    return LabelTrie(tuple(tokens), tuple(parents), tuple(depths), tuple(steps))


class TrieReader:
    """Reads tries with a causal model whose output head was narrowed to the vocabulary of the answers."""

    def __init__(self, model: Any, vocabulary: Sequence[int]) -> None:
        """`vocabulary`: the token ids of the columns of the model's logits."""
        self._model = model
        self._device = next(model.parameters()).device
        self._columns = np.full(max(vocabulary) + 1, -1, dtype=np.int64)
        self._columns[list(vocabulary)] = np.arange(len(vocabulary))

    def read_head(self, tokens: Sequence[int]) -> Cache:
        """Run the head of a prompt once, for all texts that follow it."""
        from transformers import DynamicCache

        cache = DynamicCache()
        with torch.inference_mode():
            self._model(input_ids=self._row(tokens), past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def score(self, trie: LabelTrie, body: Sequence[int], head: Cache | None = None) -> FloatArray:
        """log P(answer | prompt) = Σ log P(tokenᵢ | prompt, tokens before) for each answer, shape (n_answers,).

        Each factor is a softmax over the vocabulary of the answers. `body`, the last part of the prompt, and all
        nodes of the trie are one run: a node sees the prompt, its ancestors and itself (tree attention, Miao et al.
        2023, SpecInfer). `head`: what `read_head` gave for what stands before `body`.
        """
        from transformers import DynamicCache

        cache = DynamicCache(ddp_cache_data=head) if head is not None else DynamicCache()
        behind = head[0][0].shape[-2] if head is not None else 0
        prompt = len(body)
        positions = [*range(behind, behind + prompt), *(behind + prompt + depth for depth in trie.depths)]
        with torch.inference_mode():
            logits = self._model(
                input_ids=self._row([*body, *trie.tokens]),
                position_ids=self._row(positions),
                attention_mask=self._mask(trie, prompt, behind),
                past_key_values=cache,
                use_cache=True,
            ).logits[0, prompt - 1 :]
            # Row 0 follows the prompt, row 1 + i follows node i.
            rows: FloatArray = torch.log_softmax(logits.float().cpu().double(), dim=-1).numpy()
        return np.array([rows[before + 1, self._columns[tokens]].sum() for before, tokens in trie.answers])

    def score_plainly(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """log P(answer | prompt) from one run over the whole sequence: slow, and right with any attention."""
        with torch.inference_mode():
            logits = self._model(input_ids=self._row([*prompt, *answer]), use_cache=False).logits[
                0, len(prompt) - 1 : -1
            ]
            rows: FloatArray = torch.log_softmax(logits.float().cpu().double(), dim=-1).numpy()
        return float(rows[np.arange(len(answer)), self._columns[list(answer)]].sum())

    def _mask(self, trie: LabelTrie, prompt: int, behind: int) -> Tensor:
        """What each token of the run sees, as numbers to add: shape (1, 1, prompt + n_nodes, behind + the same)."""
        size = prompt + len(trie.tokens)
        seen = np.zeros((size, behind + size), dtype=bool)
        seen[:, :behind] = True
        seen[:prompt, behind:][:, :prompt] = np.tri(prompt, dtype=bool)
        for node, parent in enumerate(trie.parents):
            seen[prompt + node] = seen[prompt + parent]
            seen[prompt + node, behind + prompt + node] = True
        dtype = next(self._model.parameters()).dtype
        mask = torch.zeros(seen.shape, dtype=dtype)
        mask.masked_fill_(torch.from_numpy(~seen), torch.finfo(dtype).min)
        return mask[None, None].to(self._device)

    def _row(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor([list(numbers)], dtype=torch.int64, device=self._device)


def require_tree(model: Any) -> None:
    """Prove that a model's attention follows a mask: state-space models, for one, pass over it in silence.

    Raises:
        BaseModelUnusable: scores over a trie are not those of each answer alone.
    """
    prompt, answers = list(range(1, 8)), ([1, 2, 3], [1, 4, 3], [5, 3])
    exact = next(model.parameters()).dtype == torch.float32
    try:
        reader = TrieReader(model, range(model.get_output_embeddings().weight.shape[0]))
        found = reader.score(build_trie(answers), prompt[3:], reader.read_head(prompt[:3]))
        told = np.array([reader.score_plainly(prompt, answer) for answer in answers])
        # Sums over an answer's tokens are as exact as the weights are.
        follows = bool(np.abs(found - told).max() <= (1e-2 if exact else 1.0))
    except (TypeError, AttributeError, ValueError, IndexError, NotImplementedError):
        follows = False
    if not follows:
        raise BaseModelUnusable("the base model does not follow an attention mask: it cannot score a tree of labels")
