"""Base models of real architectures, tiny and random, with tokenizers of their own, and texts that can be learned."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, Qwen2Config, Qwen2Model
from transformers.utils import logging as transformers_logging

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{number}" for number in range(120))
DIMENSION = 32

transformers_logging.disable_progress_bar()


def texts_of(label: int, count: int, seed: int = 0) -> tuple[str, ...]:
    """Texts in which two thirds of the words are those of the label: learnable, and not at once."""
    generator = torch.Generator().manual_seed(1000 * seed + label)

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    own = [WORDS[6 * label + number] for number in range(6)]
    made = [
        " ".join(own[draw(6)] if draw(3) else WORDS[60 + draw(60)] for _ in range(3 + draw(9))) for _ in range(count)
    ]
    return tuple(f"{text} {WORDS[60 + number % 60]}" for number, text in enumerate(made))


def intents(labels: Sequence[int], count: int, seed: int = 0) -> Mapping[str, tuple[str, ...]]:
    """`count` texts of each label, for `write_spec`."""
    return {f"intent > {label}": texts_of(label, count, seed) for label in labels}


def bert(folder: Path, *, layers: int = 3, seed: int = 0, **changes: Any) -> Path:
    """A BERT of `layers` layers with mean pooling; its folder."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": DIMENSION,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 80,
        "initializer_range": 0.02,
    }
    model = BertModel(BertConfig(**(settings | changes)), add_pooling_layer=False)
    model.save_pretrained(folder)
    _write_tokenizer(
        folder, processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    )
    return folder


def qwen2(folder: Path, *, layers: int = 3, seed: int = 0) -> Path:
    """A decoder: its last token is the embedding."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=DIMENSION,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=80,
        initializer_range=0.02,
    )
    Qwen2Model(config).save_pretrained(folder)
    _write_tokenizer(folder, None)
    return folder


def _write_tokenizer(folder: Path, ends: Any) -> None:
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends is not None:
        made.post_processor = ends
    made.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "eos_token": "[SEP]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
