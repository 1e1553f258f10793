"""The ways to train, by name, and what each of them stands on."""

from typing import Final, Literal, get_args

Recipe = Literal["ngram", "head", "encoder", "lora"]
RECIPES: Final[tuple[Recipe, ...]] = get_args(Recipe)

WITH_BASE: Final = frozenset({"head", "encoder", "lora"})
"""These start from a pretrained model, which the domain names."""

CONTINUING: Final = frozenset({"encoder", "lora"})
"""These go on from the version before; the others begin anew with every batch."""

GENERATIVE: Final = frozenset({"lora"})
"""These answer when the main route is unsure, and never in its place."""

IMPORTED: Final = "imported"
"""What the batch of a classifier that was trained elsewhere is called: nothing is trained in it."""
