"""Tiny random causal models of a real architecture, each with a tokenizer of its own, and specs that train on them."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.trainer.specs import INTENTS, write_spec
from trainer.__main__ import main
from trainer.generative.prompt import head

CORPUS = [*INTENTS, *(text for texts in INTENTS.values() for text in texts), head(list(INTENTS)), "[Output] 分类结果:"]
# For tests of training: a random model learns nothing at the rate that suits a pretrained one.
QUICK: Mapping[str, Any] = {
    "learning_rate": 1e-2,
    "epochs": 1,
    "accumulation": 1,
    "batch_size": 4,
    "references": 2,
    "dropout": 0.0,
    "max_text_tokens": 32,
}


@functools.cache
def _tokenizer() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


def write_base(
    folder: Path, *, tied: bool = True, seed: int = 0, room: int = 8, start: str | None = None, **changes: Any
) -> Path:
    """A random Qwen2 of two layers.

    Args:
        room: rows of its embeddings beyond the tokenizer, as Qwen's own have.
        start: a token that the tokenizer sets before every text.
    """
    import torch
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer.from_str(_tokenizer())
    if start is not None:
        told = [(start, tokenizer.token_to_id(start))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=told)
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": tokenizer.get_vocab_size() + room,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
    }
    model = Qwen2ForCausalLM(Qwen2Config(**(sizes | changes)))
    model.save_pretrained(folder)
    # No pad token: as with many decoders, the end must do.
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


def lora_spec(
    folder: Path,
    base: Path,
    intents: Mapping[str, Sequence[str]] = INTENTS,
    *,
    config: Mapping[str, Any] = MappingProxyType({}),
    **fields: Any,
) -> Path:
    """A spec of the recipe on this base, with a config that suits a tiny one."""
    told = {"recipe": "lora", "base": {"name": base.name, "folder": str(base)}, "config": {**QUICK, **config}}
    return write_spec(folder, intents, **(told | fields))


def train_lora(folder: Path, base: Path, intents: Mapping[str, Sequence[str]] = INTENTS, **fields: Any) -> Path:
    """Train in this process and return the artifact's folder. The base's folder is that of all bases, and its name."""
    out = folder / "artifact"
    assert main(["lora", "--spec", str(lora_spec(folder / "spec", base, intents, **fields)), "--out", str(out)]) == 0
    return out


def mark_as_old(spec: Path, text_ids: set[int]) -> None:
    """Say of these texts that a version was trained on them before."""
    examples = spec.parent / "examples.jsonl"
    rows = [json.loads(line) for line in examples.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**row, "new": row["text_id"] not in text_ids}, ensure_ascii=False) for row in rows]
    examples.write_text("\n".join(lines), encoding="utf-8")
