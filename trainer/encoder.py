"""The `encoder` recipe: fine-tune a pretrained encoder with a linear head, going on from the version that serves.

The first version starts from the domain's base model and is trained on every text. A later one continues from its
parent: new texts, some old ones replayed beside them, the lowest layers kept as they are.
"""

from __future__ import annotations

from pathlib import Path

from trainer.encoder_config import EncoderConfig
from trainer.spec import Progress, Spec, SpecInvalid


def train_encoder(spec: Spec, config: EncoderConfig, out: Path, report: Progress) -> str:
    """Train on the spec's examples, write the artifact into the empty folder `out`, and return its digest.

    Raises:
        SpecInvalid: fewer than two labels have two texts, the base or the parent cannot be used, or torch is missing.
    """
    try:
        # Loaded here: the service and the other recipes know this module, and have no torch.
        from trainer.encoder_training import train
    except ImportError as error:
        raise SpecInvalid(
            f"the recipe {spec.recipe!r} needs {error.name}, which is not installed: pip install 'intentloop[train]'"
        ) from error
    return train(spec, config, out, report)
