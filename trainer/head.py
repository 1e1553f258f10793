"""The `head` recipe: a frozen encoder whose embeddings are computed once, and a small head that is fitted anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.artifacts.measured import write_measured
from app.intent.scope import fit_scope
from app.scorers.artifact import ArtifactCorrupt
from app.scorers.onnx_encoder import MOST_LENGTH
from trainer.encoders.kept_embeddings import embeddings_of
from trainer.encoders.onnx_artifact import FittedHead, encoder_alone, write_onnx_artifact
from trainer.encoders.pooling import MODES
from trainer.encoders.served_encoder import PRECISIONS, ServedEncoder, encoder_of
from trainer.heads.dense_head import HeadSettings, fit_head
from trainer.logistic import softmax
from trainer.material import Material, material_of
from trainer.spec import Progress, Spec, SpecInvalid

# Where on the progress bar each stage begins.
EMBEDDING, FITTING, WRITING = 0.4, 0.7, 0.95


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """What can be changed about the recipe.

    Args:
        max_length: tokens of a text that are read, 8 to 512. Room beyond the longest text costs nothing.
        pooling: one of `trainer.encoders.pooling.MODES` in place of the base model's own, or "" for that.
        precision: `auto` serves the fastest graph that answers as fp32 does, `fp32` the graph as it was exported.
        head: how the head is fitted.
    """

    max_length: int = 64
    pooling: str = ""
    precision: str = "auto"
    head: HeadSettings = field(default_factory=HeadSettings)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if not 8 <= self.max_length <= MOST_LENGTH:
            raise ValueError(f"max_length must lie between 8 and {MOST_LENGTH}")
        if self.pooling not in ("", *MODES):
            raise ValueError(f"pooling must be empty or one of {', '.join(MODES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")


def train_head(spec: Spec, config: HeadConfig, out: Path, report: Progress) -> str:
    """Train on the spec's examples, write the artifact into the empty folder `out`, and return its digest.

    Raises:
        SpecInvalid: fewer than two labels have two texts, or the domain's base model cannot be used.
    """
    material = material_of(spec)
    report(0.0, "opening the encoder")
    encoder = encoder_of(
        spec,
        lambda folder, told: _export(folder, material, config, out, told),
        lambda share, stage: report(share * EMBEDDING, stage),
        max_length=config.max_length,
        # A graph that was chosen by its answers and one that was not are kept beside each other.
        pooling=f"{config.pooling}/{config.precision}",
    )
    report(EMBEDDING, "embedding texts")
    try:
        served = encoder_alone(encoder)
        embeddings, computed = embeddings_of(
            material.texts,
            served.embed,
            encoder=encoder.digest,
            dimension=encoder.settings.dimension,
            cache=spec.cache,
        )
        names = served.embed(names_of(spec, material))
    except (ArtifactCorrupt, ValueError) as error:
        raise SpecInvalid(f"the base model cannot be served as an encoder: {error}") from error
    report(FITTING, f"fitting the head on {len(embeddings)} texts, {computed} of them new")
    fitted = fit_head(
        embeddings,
        material.targets,
        len(material.label_ids),
        config.head,
        spec.seed,
        lambda share, stage: report(FITTING + share * (WRITING - FITTING), stage),
        names=names,
    )
    report(WRITING, "writing the artifact")
    unseen = softmax(fitted.out_of_fold_logits, fitted.temperature)
    return write_onnx_artifact(
        out,
        spec,
        material,
        encoder,
        FittedHead(fitted.kind, fitted.arrays, fitted.out_of_fold_logits, None, fitted.temperature),
        config=asdict(config),
        training=fitted.facts,
        scope=fit_scope(embeddings, material.targets, unseen),
    )


def names_of(spec: Spec, material: Material) -> list[str]:
    """What each label is called, as a person would say it: the head takes it for one more text of the label."""
    paths = {label.id: label.path for label in spec.labels}
    return [" ".join(paths[label_id].replace("_", " ").split(" > ")) for label_id in material.label_ids]


def _export(
    folder: Path, material: Material, config: HeadConfig, out: Path, report: Callable[[float, str], None]
) -> ServedEncoder:
    """Make a base model ready to be served. Only here torch is needed: a later batch finds what this one made."""
    from trainer.encoders.backbone import load_backbone
    from trainer.encoders.serving_form import serve

    report(0.0, "loading the base model")
    backbone = load_backbone(folder, max_length=config.max_length, pooling=config.pooling or None)
    served, speed = serve(
        backbone,
        material.texts,
        material.targets,
        precision=config.precision,
        facts={},
        report=lambda share, stage: report(0.2 + 0.8 * share, stage),
    )
    write_measured(out, {"speed": speed})
    return served
