"""Write a backbone as one self-contained ONNX file that answers as torch does."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.scorers.onnx_encoder import INPUTS, OUTPUT
from trainer.encoders.backbone import Backbone
from trainer.pretrained import quiet
from trainer.spec import SpecInvalid

# Between torch and the exported graph, of one number of an embedding, as a share of the largest one.
MOST_DIFFERENCE = 1e-4
# ONNX files end at 2 GiB, and a graph of this form keeps its weights inside.
MOST_BYTES = 2**31 - 2**20


def export_graph(backbone: Backbone) -> bytes:
    """The backbone with its pooling as an fp32 graph with the inputs and the output that `app.scorers.onnx` asks for.

    Raises:
        SpecInvalid: it is too large for one file, cannot be exported, or the export answers otherwise than torch.
    """
    import onnx

    if 4 * sum(parameter.numel() for parameter in backbone.parameters()) > MOST_BYTES:
        raise SpecInvalid("the base model has more weights than one ONNX file holds (2 GiB): take a smaller one")
    device = next(backbone.parameters()).device
    backbone.eval().cpu()
    ids, mask = _sample(backbone)
    shape = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens", max=max(2, backbone.max_length))}
    with tempfile.TemporaryDirectory() as workshop, quiet(), contextlib.redirect_stdout(io.StringIO()):
        try:
            program = torch.onnx.export(
                backbone,
                (ids, mask),
                dynamo=True,
                input_names=list(INPUTS),
                # Not `embedding`: a value inside bears that name, and the file would be invalid without a word.
                output_names=[OUTPUT],
                dynamic_shapes=dict.fromkeys(INPUTS, shape),
                verbose=False,
            )
            program.save(Path(workshop) / "fp32.onnx", external_data=False)
            graph = stripped(onnx.load(Path(workshop) / "fp32.onnx"))
        except Exception as error:  # The exporter and the optimisers behind it raise whatever they meet.
            raise SpecInvalid(f"the base model cannot be exported to ONNX ({type(error).__name__})") from error
    _check_parity(backbone, graph)
    backbone.to(device)
    return graph


def stripped(model: Any) -> bytes:
    """The bytes of an ONNX model without what the exporter notes about the machine that it ran on."""
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _sample(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Two texts of different lengths, from the vocabulary's beginning."""
    size = int(backbone.encoder.config.vocab_size)
    length = min(9, backbone.max_length)
    ids = torch.arange(2 * length).reshape(2, length) % size
    # Two tensors: one that is given twice would become one input.
    mask = torch.ones((2, length), dtype=torch.int64)
    mask[1, length // 2 + 1 :] = 0
    return ids, mask


def _check_parity(backbone: Backbone, graph: bytes) -> None:
    """Ask both at several lengths: an export may have kept the length of its sample."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    size = int(backbone.encoder.config.vocab_size)
    for texts, length in ((1, 1), (1, 5), (3, min(17, backbone.max_length)), (2, backbone.max_length)):
        ids = (torch.arange(texts * length).reshape(texts, length) * 7 + 3) % size
        mask = torch.ones_like(ids)
        mask[-1, max(1, length // 2) :] = 0
        with torch.no_grad():
            expected = backbone(ids, mask).numpy()
        given = dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True))
        found = session.run([OUTPUT], given)[0]
        if found.shape != expected.shape:
            raise SpecInvalid("the exported graph gives embeddings of another shape than the base model")
        worst = float(np.abs(found - expected).max()) / max(1e-6, float(np.abs(expected).max()))
        if not worst <= MOST_DIFFERENCE:
            raise SpecInvalid(f"the exported graph differs from the base model by {worst:.1e} of its largest number")
