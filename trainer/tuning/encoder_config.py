"""What can be changed about the recipe `encoder`: the numbers of its first version and of every step that follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.encoders.served_encoder import PRECISIONS

TWO_THIRDS = -1
BY_TEXTS = -1
# With more texts a label than this, in the mean, drawing them together only wears the base's knowledge off.
FEW_TEXTS = 30
BF16 = ("auto", "on", "off")
# A share of the texts is held out, but never more: a thousand judge temperature and thresholds well enough.
MOST_HELD_OUT = 1_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """The numbers of one run of training.

    Args:
        epochs: how often each text is seen; early stopping may end before.
        learning_rate: of the encoder's layers.
        freeze_layers: the embeddings and so many of the lowest layers stay as they are; 0 trains everything.
    """

    epochs: int
    learning_rate: float
    head_learning_rate: float
    batch_size: int
    freeze_layers: int
    label_smoothing: float


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The defaults are settings that did well in the field; those that begin with `first_` count without a parent.

    Args:
        epochs, learning_rate, head_learning_rate, batch_size: of a step that continues from the active version.
        replay_ratio: replayed / (new + replayed), 0 to 0.9.
        replay_pool: so many candidates for each replayed text are looked at before the choice, 1 to 10.
        freeze_layers: lowest layers that stay as they are, with the embeddings; -1: two thirds of them, 0: none.
        patience: epochs without a better macro-F1 on the held-out texts after which training stops.
        distillation: weight of the previous version's answers to replayed texts beside their labels (Li & Hoiem 2016).
        distillation_temperature: by which both sides' logits are divided there.
        interpolation: whether the weights are mixed with the previous version's where that lowers negative flips.
        bf16: `auto` takes it where the processor multiplies in it, `on`, `off`.
        precision: `auto` serves the fastest graph that answers as fp32 does, `fp32` the graph as it was exported.
        label_balance: each text weighs count(its label) ** -label_balance: 0 as they come, 1 every label alike.
        held_out: share of the texts that nothing is trained on; they choose the epoch and fit the temperature.
        first_epochs, first_learning_rate: -1 and 0: 8 at 5e-5 where texts are few (30 a label in the mean), else 5 at
            1e-4, and then to the end: a fitted head is good to begin with, and the first epochs, of a high rate, fall
            below it.
        first_contrastive_epochs: epochs beforehand that draw texts of one label together, without the head; -1: 4
            where texts are few, else none.
        first_share: of the trained weights in the mixture with the base's that becomes the first version (Wortsman et
            al. 2022), 0.1 to 1; 0: all of it where texts are few, else half.
        first_refit: whether the first version is trained once more, on the held-out texts too; worth it where texts
            are few. The next step then has none of them to judge by.
        max_length: tokens of a text that are read; 8 to 512.
    """

    epochs: int = 2
    learning_rate: float = 1e-5
    head_learning_rate: float = 1e-3
    batch_size: int = 8
    replay_ratio: float = 0.5
    replay_pool: int = 2
    freeze_layers: int = TWO_THIRDS
    patience: int = 2
    distillation: float = 0.5
    distillation_temperature: float = 2.0
    interpolation: bool = True
    bf16: str = "auto"
    precision: str = "auto"
    label_balance: float = 0.5
    label_smoothing: float = 0.0
    held_out: float = 0.15
    max_length: int = 64
    first_epochs: int = BY_TEXTS
    first_learning_rate: float = 0.0
    first_batch_size: int = 32
    first_freeze_layers: int = 0
    first_contrastive_epochs: int = BY_TEXTS
    first_share: float = 0.0
    first_label_smoothing: float = 0.1
    first_refit: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        bounds: dict[str, tuple[float, float]] = {
            "epochs": (1, 100),
            "learning_rate": (1e-7, 1e-2),
            "head_learning_rate": (1e-6, 1e-1),
            "batch_size": (1, 256),
            "replay_ratio": (0.0, 0.9),
            "replay_pool": (1, 10),
            "freeze_layers": (TWO_THIRDS, 256),
            "patience": (1, 100),
            "distillation": (0.0, 10.0),
            "distillation_temperature": (0.5, 20.0),
            "label_balance": (0.0, 1.0),
            "label_smoothing": (0.0, 0.5),
            "held_out": (0.0, 0.5),
            "max_length": (8, 512),
            "first_epochs": (BY_TEXTS, 100),
            "first_learning_rate": (0.0, 1e-2),
            "first_share": (0.0, 1.0),
            "first_batch_size": (1, 256),
            "first_freeze_layers": (TWO_THIRDS, 256),
            "first_contrastive_epochs": (BY_TEXTS, 20),
            "first_label_smoothing": (0.0, 0.5),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie between {low:g} and {high:g}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        if self.bf16 not in BF16:
            raise ValueError(f"bf16 must be one of {', '.join(BF16)}")

    def step(self) -> Schedule:
        """The numbers of a step that continues from a version."""
        return Schedule(
            self.epochs,
            self.learning_rate,
            self.head_learning_rate,
            self.batch_size,
            self.freeze_layers,
            self.label_smoothing,
        )

    def are_few(self, n_texts: int, n_labels: int) -> bool:
        """Whether these are so few texts that a first version draws those of one label together."""
        return n_texts <= FEW_TEXTS * n_labels

    def for_texts(self, n_texts: int, n_labels: int) -> EncoderConfig:
        """With a number in each place that was left to the number of texts."""
        few = self.are_few(n_texts, n_labels)
        return replace(
            self,
            first_epochs=(8 if few else 5) if self.first_epochs == BY_TEXTS else self.first_epochs,
            first_learning_rate=self.first_learning_rate or (5e-5 if few else 1e-4),
            first_contrastive_epochs=(
                (4 if few else 0) if self.first_contrastive_epochs == BY_TEXTS else self.first_contrastive_epochs
            ),
            first_share=self.first_share or (1.0 if few else 0.5),
        )

    def first(self) -> Schedule:
        """The numbers of a first version, which starts from a base model; only of a config `for_texts`."""
        return Schedule(
            self.first_epochs,
            self.first_learning_rate,
            self.head_learning_rate,
            self.first_batch_size,
            self.first_freeze_layers,
            self.first_label_smoothing,
        )
