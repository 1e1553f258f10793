"""Load a pretrained encoder, or a decoder as one, with its pooling: token ids in, one embedding a text out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.artifacts.base_models import BaseModelUnusable
from trainer.encoders.pooling import CLASSIFIER, Pooling, pooling_of
from trainer.pretrained import load_pretrained, quiet
from trainer.spec import SpecInvalid

BATCH_TEXTS = 32


class Backbone(nn.Module):
    """A pretrained model whose last hidden states are pooled to one embedding a text.

    Args:
        encoder: the model as AutoModel loads it, or a sequence classifier without its last layer.
        tokenizer: the bytes of its `tokenizer.json`, as it is served.
        max_length: tokens of a text that are read.
        dimension: numbers in one embedding, where they are not those of the hidden states.
    """

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: bytes,
        pooling: Pooling,
        *,
        max_length: int,
        dimension: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        """Numbers in one embedding."""
        return self._dimension or int(self.encoder.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask of shape (n_texts, n_tokens), padded on the right, to embeddings (n_texts, dimension)."""
        given = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **asked_of(self.encoder))
        if self.pooling.mode == CLASSIFIER:
            embeddings: Tensor = given.logits
            return embeddings
        return self.pool(given.last_hidden_state, attention_mask)

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states of shape (n_texts, n_tokens, dimension) to embeddings (n_texts, dimension)."""
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        if self.pooling.mode == "cls":
            pooled = hidden[:, 0]
        elif self.pooling.mode == "last":
            # The last token is the one after which no other counts: as weights, it can be exported for any length.
            last = weights * (weights.flip(1).cumsum(1).flip(1) == 1.0).to(hidden.dtype)
            pooled = (hidden * last).sum(1)
        elif self.pooling.mode == "max":
            pooled = (hidden + (weights - 1.0) * 1e9).amax(1)
        else:
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=1) if self.pooling.normalise else pooled

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, cut to `max_length`, as serving reads them."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer.decode("utf-8"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of shape (n_texts, dimension), in the order of `texts`. Leaves the model in eval mode."""
        self.eval()
        tokens = self.tokens(texts)
        order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
        found = np.empty((len(texts), self.dimension), dtype=np.float32)
        device = next(self.parameters()).device
        with torch.no_grad():
            for first in range(0, len(order), BATCH_TEXTS):
                rows = order[first : first + BATCH_TEXTS]
                ids, mask = padded([tokens[row] for row in rows])
                found[rows] = self(ids.to(device), mask.to(device)).float().cpu().numpy()
        return found


def load_backbone(folder: Path, *, max_length: int, pooling: str | None = None) -> Backbone:
    """Load what AutoModel can load from a folder, in float32; never code of its own, never pickled weights.

    Args:
        max_length: tokens of a text that are read.
        pooling: a mode that stands in for the folder's own.

    Raises:
        SpecInvalid: nothing can be trained from what lies there. The message says why.
    """
    encoder = load_encoder(folder)
    decoder = is_decoder(encoder.config)
    found = pooling_of(folder, decoder=decoder)
    if pooling is not None:
        found = Pooling(pooling, found.normalise)
    return Backbone(encoder, tokenizer_of(folder), found, max_length=max_length)


def load_encoder(folder: Path) -> nn.Module:
    """The model in a folder, as AutoModel loads it, in float32 and without its tokenizer.

    Raises:
        SpecInvalid: nothing can be trained from what lies there. The message says why.
    """
    from transformers import AutoModel

    try:
        encoder, _ = load_pretrained(
            AutoModel, folder, "the base model", dtype=torch.float32, attn_implementation="eager"
        )
    except BaseModelUnusable as error:
        raise SpecInvalid(str(error)) from error
    if getattr(encoder, "pooler", None) is not None:
        # No pooling asks it, and where the folder lacks its weights they would be random: another hash each time.
        encoder.pooler = None
    loaded: nn.Module = encoder
    return loaded


def asked_of(model: nn.Module) -> dict[str, Any]:
    """What a run of the model is told beside its input."""
    # A decoder would otherwise build its cache for further tokens, which nobody asks for.
    return {"use_cache": False} if is_decoder(model.config) else {}


def is_decoder(config: Any) -> bool:
    """Whether the model reads from left to right only."""
    named = [str(name) for name in getattr(config, "architectures", None) or []]
    return (
        bool(getattr(config, "is_decoder", False))
        or any("CausalLM" in name for name in named)
        or (
            not hasattr(config, "type_vocab_size")
            and hasattr(config, "rope_parameters")
            and hasattr(config, "use_cache")
        )
    )


def tokenizer_of(folder: Path) -> bytes:
    """The folder's tokenizer as one `tokenizer.json`. Where an empty text would have no token, an end is added to all.

    Raises:
        SpecInvalid: there is none that works without transformers.
    """
    from transformers import AutoTokenizer

    with quiet():
        try:
            loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            fast = loaded.backend_tokenizer
            if not fast.encode("").ids:
                _add_end(fast, loaded.eos_token)
            return str(fast.to_str()).encode("utf-8")
        except Exception as error:
            raise SpecInvalid(
                f"the base model {folder.name[:100]!r} has no tokenizer that can be served ({type(error).__name__})"
            ) from error


def _add_end(fast: Any, end: str) -> None:
    from tokenizers import processors

    number = fast.token_to_id(end)
    ending = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, number)])
    before = fast.post_processor
    fast.post_processor = processors.Sequence([before, ending]) if before is not None else ending


def padded(tokens: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids and mask of shape (n_texts, longest), padded with 0 on the right as serving does."""
    longest = length or max(map(len, tokens))
    ids = torch.zeros(len(tokens), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, numbers in enumerate(tokens):
        ids[row, : len(numbers)] = torch.tensor(numbers)
        mask[row, : len(numbers)] = 1
    return ids, mask
