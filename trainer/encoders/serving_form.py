"""From a backbone to the encoder that is served: exported, and in the fastest form that answers as it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.intent.arrays import IntArray
from app.scorers.onnx_encoder import EncoderSettings
from trainer.encoders.backbone import Backbone
from trainer.encoders.graph_choice import Encoding, Fit, choose, fit_regression
from trainer.encoders.onnx_export import export_graph
from trainer.encoders.served_encoder import ServedEncoder


def serve(
    backbone: Backbone,
    texts: Sequence[str],
    targets: IntArray,
    *,
    precision: str,
    facts: Mapping[str, Any],
    report: Callable[[float, str], None],
    fit: Fit = fit_regression,
) -> tuple[ServedEncoder, Mapping[str, Any]]:
    """The encoder as it will be served, and how fast its forms were: for `app.artifacts.measured`.

    Args:
        texts: labelled ones of the domain, by which the form is chosen, with `targets`, shape (n_texts,).
        precision: `auto`, or `fp32` for the graph as it was exported.
        fit: the heads by which the forms are compared.
        facts: for the manifest, beside those of the choice.

    Raises:
        SpecInvalid: it cannot be exported, or the export answers otherwise than torch.
    """
    report(0.0, "exporting to ONNX")
    graph = export_graph(backbone)
    if precision == "fp32":
        settings = EncoderSettings(backbone.max_length, backbone.dimension, alone=False, precision="fp32")
        return ServedEncoder(settings, graph, backbone.tokenizer, {**facts, "precision": "fp32"}), {}
    encoding = Encoding(backbone.tokenizer, backbone.max_length, backbone.dimension)
    choice = choose(
        graph,
        encoding,
        texts,
        targets,
        fit,
        report=lambda share, stage: report(0.4 + 0.6 * share, stage),
    )
    settings = encoding.settings(choice.served)
    return ServedEncoder(settings, choice.served.graph, backbone.tokenizer, {**facts, **choice.facts}), choice.speed
