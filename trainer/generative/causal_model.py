"""Load a causal base model from a folder, put an adapter on it, and make it ready to train or to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.artifacts.base_models import BaseModelUnusable
from app.scorers.artifact import ArtifactCorrupt, canonical_json
from trainer.generative.files import ADAPTER, ADAPTER_CONFIG, GenerativeSettings
from trainer.pretrained import load_pretrained, quiet

MAX_ADAPTER_BYTES = 2 * 2**30


def device() -> torch.device:
    """Where it computes: CUDA or MPS where torch finds it, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_causal(folder: Path, dtype: str) -> Any:
    """What AutoModelForCausalLM can load from a folder; never code of its own, never pickled weights.

    Raises:
        BaseModelUnusable: it can load nothing there. The message says why.
    """
    from transformers import AutoModelForCausalLM

    model, missing = load_pretrained(
        AutoModelForCausalLM, folder, "the base model", how=" as a causal one", dtype=getattr(torch, dtype)
    )
    if missing:
        # An encoder would load, with a random output head.
        raise BaseModelUnusable(
            f"the base model {folder.name[:100]!r} lacks weights of a causal model: it cannot answer"
        )
    return model


def read_tokenizer(folder: Path) -> tuple[bytes, tuple[int, ...], int]:
    """The base's tokenizer.json, the ids that it sets before a text, and the id after an answer.

    Raises:
        BaseModelUnusable: there is no tokenizer that works without transformers, or it knows no end.
    """
    from transformers import AutoTokenizer

    with quiet():
        try:
            loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            content, framed, end = loaded.backend_tokenizer.to_str(), loaded("")["input_ids"], loaded.eos_token_id
        except Exception as error:  # Whatever a file makes transformers raise.
            raise BaseModelUnusable(
                f"the base model {folder.name[:100]!r} has no tokenizer that can be served ({type(error).__name__})"
            ) from error
    if end is None:
        raise BaseModelUnusable(f"the tokenizer of {folder.name[:100]!r} names no eos_token: an answer could not end")
    return content.encode("utf-8"), tuple(token for token in framed if token != end), int(end)


def adapter_targets(model: nn.Module, which: str) -> tuple[str, ...]:
    """Names of the linear modules that an adapter changes: `all` (Dettmers et al. 2023, QLoRA) or `attention`.

    Raises:
        BaseModelUnusable: the model has none.
    """
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if module is not head and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
    ]
    chosen = [name for name in linear if which == "all" or "attn" in name or "attention" in name]
    if not chosen:
        raise BaseModelUnusable("the base model has no linear modules that an adapter could change")
    return tuple(sorted({name.rsplit(".", 1)[-1] for name in chosen}))


def grow_vocabulary(model: Any, size: int) -> None:
    """Make room for `size` token ids. New rows are drawn with torch's seed; whoever adds tokens sets theirs."""
    if model.get_input_embeddings().weight.shape[0] < size:
        with quiet():
            model.resize_token_embeddings(size, mean_resizing=False)


def with_adapter(model: Any, settings: GenerativeSettings, tokens: Sequence[int], *, dropout: float = 0.0) -> Any:
    """The model with a new adapter, which alone is trainable. `tokens`: ids whose output rows are trained as well."""
    from peft import LoraConfig, get_peft_model

    # Where input and output share their rows, peft finds the output by itself.
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    embeddings = model.get_input_embeddings() if tied else model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings).rsplit(".", 1)[-1]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=dropout,
        target_modules=list(settings.targets),
        trainable_token_indices={name: list(tokens)} if tokens else None,
    )
    with quiet():
        return get_peft_model(model, config)


def write_adapter(folder: Path, adapted: Any, settings: GenerativeSettings) -> None:
    """Write the adapter as peft reads it, without the path of this machine that peft would put in."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    (folder / ADAPTER).write_bytes(save(tensors, metadata={"format": "pt"}))
    config = json.loads(json.dumps(adapted.peft_config["default"].to_dict(), default=_as_json))
    config |= {"base_model_name_or_path": settings.base_name, "inference_mode": True}
    (folder / ADAPTER_CONFIG).write_bytes(canonical_json(config))


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors.

    Raises:
        ArtifactCorrupt: the file is missing, too large, or no safetensors.
    """
    from safetensors.torch import load

    from app.scorers.artifact import read_content

    content = read_content(folder / ADAPTER, MAX_ADAPTER_BYTES)
    try:
        tensors: dict[str, Tensor] = load(content)
    except Exception as error:  # safetensors' errors share no class.
        raise ArtifactCorrupt(f"{ADAPTER} cannot be read ({type(error).__name__})") from error
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ArtifactCorrupt(f"{ADAPTER} holds something that is not a number")
    return tensors


def set_adapter(adapted: Any, tensors: dict[str, Tensor]) -> None:
    """Give the model's adapter these weights.

    Raises:
        ArtifactCorrupt: they are those of another base, or of another adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: t.shape for name, t in wanted.items()}:
        raise ArtifactCorrupt(f"the weights of {ADAPTER} do not fit this base model")
    with quiet():
        set_peft_model_state_dict(adapted, tensors)


def narrowed(adapted: Any, vocabulary: Sequence[int]) -> Any:
    """The model with its adapter worked into the weights, and an output head for the tokens of `vocabulary` alone.

    A head over all tokens of a language would cost more than all else, for words that are never an answer.
    """
    with quiet():
        model = adapted.merge_and_unload()
    head = model.get_output_embeddings()
    rows = torch.tensor(list(vocabulary), dtype=torch.int64)
    small = nn.Linear(head.weight.shape[1], len(rows), bias=getattr(head, "bias", None) is not None)
    with torch.no_grad():
        small.weight = nn.Parameter(head.weight[rows].clone(), requires_grad=False)
        if small.bias is not None:
            small.bias = nn.Parameter(head.bias[rows].clone(), requires_grad=False)
    model.set_output_embeddings(small)
    return model.requires_grad_(False).eval().to(device())


def _as_json(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))
