"""Tiny pretrained models of real architectures, with tokenizers of their own, saved as a hub would keep them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.scorers.encoders import tokenizer as bert_tokenizer

DIMENSION = 32
MODULES = (
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
)
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}


def bert(folder: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A BERT with random weights that reads Chinese and Latin characters one by one."""
    return _bert(folder, "BertModel", layers=layers, seed=seed)


def classifier(folder: Path, labels: Sequence[str], *, layers: int = 2, seed: int = 0) -> Path:
    """The same with a random classifier on it, whose columns have these names."""
    named = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
    return _bert(folder, "BertForSequenceClassification", layers=layers, seed=seed, **named)


def _bert(folder: Path, kind: str, *, layers: int, seed: int, **more: object) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer
    from transformers import BertConfig, PreTrainedTokenizerFast

    made = Tokenizer.from_str(bert_tokenizer().decode("utf-8"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=DIMENSION,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * DIMENSION,
        max_position_embeddings=64,
        **more,
    )
    getattr(transformers, kind)(config).save_pretrained(folder)
    named = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **named).save_pretrained(folder)
    return folder


def qwen(folder: Path, *, layers: int = 2, seed: int = 0) -> Path:
    """A Qwen2 with random weights that reads bytes, with an end and no padding token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(pieces),
        hidden_size=DIMENSION,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=2 * DIMENSION,
        max_position_embeddings=128,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token=pieces[0]).save_pretrained(folder)
    return folder


def as_sentence_transformers(folder: Path, pooling: dict[str, object], *more: dict[str, object]) -> Path:
    """The folder with what sentence-transformers writes beside a model."""
    (folder / "modules.json").write_text(json.dumps([*MODULES, *more]))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
