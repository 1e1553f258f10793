"""Train the upper layers of a backbone with a linear head on labelled texts, and stop when held-out texts gain no more.

Torch, and no files. Every random choice comes from the seed.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.intent.arrays import FloatArray, IntArray
from app.intent.evaluation import macro_f1
from trainer.heads.linear_head import LinearHead
from trainer.logistic import class_weights
from trainer.spec import Progress
from trainer.tuning.descent import adamw, descend, warmed
from trainer.tuning.embedding import Embedder, Texts, like_length_batches
from trainer.tuning.encoder_config import EncoderConfig, Schedule

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts with their label's column, shape (n,)."""

    texts: Texts
    targets: IntArray

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Teacher:
    """What the previous version said about some of the training texts.

    Args:
        columns: for each of the previous version's labels its column today; shape (n_old,).
        logits: shape (n_texts, n_old); rows of texts that it is not asked about are never read.
        asked: shape (n_texts,), whether a text is replayed.
    """

    columns: IntArray
    logits: FloatArray
    asked: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StandIns:
    """Embeddings that the head is held to; the backbone learns nothing from them.

    Args:
        embeddings: shape (n, dimension).
        targets: the column of each, shape (n,).
        weight: of their mean loss beside that of the texts.
    """

    embeddings: NDArray[np.float32]
    targets: IntArray
    weight: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """Mean loss of an epoch's batches, and the macro-F1 on the held-out texts behind it; NaN without any."""

    loss: float
    macro_f1: float
    seconds: float


@dataclass(slots=True)
class Tuned:
    """The head beside the backbone, which was changed in place; and how it went.

    `began`: macro-F1 before the first epoch, NaN where nobody asked. `best_epoch`: 0 is the state before the first.
    """

    head: LinearHead
    began: float = math.nan
    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0


def fine_tune(
    embedder: Embedder,
    head: LinearHead,
    training: Labelled,
    judged: Labelled,
    schedule: Schedule,
    config: EncoderConfig,
    *,
    seed: int,
    teacher: Teacher | None = None,
    stand_ins: StandIns | None = None,
    may_stay: bool = False,
    to_the_end: bool = False,
    report: Progress = lambda _, __: None,
) -> Tuned:
    """Train `schedule.epochs` at most, and go back to the epoch with the best macro-F1 on `judged`.

    Args:
        embedder: its backbone is changed in place, and left in evaluation mode.
        judged: never trained on; may be empty, and then the last epoch stands.
        stand_ins: for labels that nobody has a text of. Without them each text would only teach that it is not theirs,
            until they are never answered.
        may_stay: whether the state before the first epoch may be the best; else the first epoch at least is taken.
        to_the_end: the last epoch stands, unless the state before the first may stay and is better.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    run = _Run(embedder, head, training, schedule, config, teacher, stand_ins)
    tuned = Tuned(head)
    best, best_state = (-1.0, -math.inf), run.state()
    if may_stay:
        best = run.judge(judged)
        tuned.began = best[0]
    started = time.monotonic()
    for number in range(1, schedule.epochs + 1):
        loss = run.epoch(rng)
        found = run.judge(judged)
        seconds = time.monotonic() - started
        tuned.epochs.append(Epoch(loss, found[0], seconds / number))
        left = seconds / number * (schedule.epochs - number)
        report(number / schedule.epochs, _told(number, schedule.epochs, loss, found[0], left))
        if to_the_end and number < schedule.epochs:
            continue
        if not len(judged) or found > best:
            best, best_state, tuned.best_epoch = found, run.state(), number
        elif number - tuned.best_epoch >= config.patience:
            break
    run.restore(best_state)
    embedder.backbone.eval()
    tuned.head = run.head()
    return tuned


def trainable_state(embedder: Embedder) -> dict[str, Tensor]:
    """A copy of the weights that training changes, by name."""
    return {
        name: weight.detach().clone() for name, weight in embedder.backbone.named_parameters() if weight.requires_grad
    }


def load_state(embedder: Embedder, state: State) -> None:
    """Put weights back that `trainable_state` copied."""
    with torch.no_grad():
        for name, weight in embedder.backbone.named_parameters():
            if name in state:
                weight.copy_(state[name])


class _Run:
    """One training: parameters, optimiser and rate. Not reused."""

    def __init__(
        self,
        embedder: Embedder,
        head: LinearHead,
        training: Labelled,
        schedule: Schedule,
        config: EncoderConfig,
        teacher: Teacher | None,
        stand_ins: StandIns | None,
    ) -> None:
        self._embedder, self._training = embedder, training
        self._schedule, self._config, self._teacher = schedule, config, teacher
        device = embedder.device
        self._weights = nn.Parameter(torch.tensor(head.weights, device=device))
        self._bias = nn.Parameter(torch.tensor(head.bias, device=device))
        weighing = class_weights(training.targets, len(head.bias), config.label_balance)
        self._weighing = torch.tensor(weighing, dtype=torch.float32, device=device)
        self._targets = torch.tensor(training.targets, device=device)
        self._held: tuple[Tensor, Tensor, float] | None = None
        if stand_ins is not None:
            given, aims = (torch.tensor(part, device=device) for part in (stand_ins.embeddings, stand_ins.targets))
            self._held = given, aims, stand_ins.weight
        self._body = [weight for weight in embedder.backbone.parameters() if weight.requires_grad]
        per_epoch = -(-len(training) // schedule.batch_size)
        self._optimiser = adamw(
            [
                {"params": [w for w in self._body if w.ndim > 1], "lr": schedule.learning_rate},
                {"params": [w for w in self._body if w.ndim < 2], "lr": schedule.learning_rate, "weight_decay": 0.0},
                {"params": [self._weights, self._bias], "lr": schedule.head_learning_rate, "weight_decay": 0.0},
            ]
        )
        self._rate = warmed(self._optimiser, per_epoch * schedule.epochs)

    def epoch(self, rng: np.random.Generator) -> float:
        """One pass over all texts; the mean loss of its batches."""
        self._embedder.backbone.train()
        losses = []
        for rows in like_length_batches(self._training.texts, self._schedule.batch_size, rng):
            loss = self._loss(rows)
            descend(self._optimiser, loss)
            self._rate.step()
            losses.append(float(loss.detach()))
        mean = float(np.mean(losses))
        if not math.isfinite(mean):
            raise FloatingPointError("the loss is no number any more: the learning rate is too high for these texts")
        return mean

    def judge(self, judged: Labelled) -> tuple[float, float]:
        """Macro-F1 on held-out texts, and minus their loss for what is equal there."""
        if not len(judged):
            return math.nan, math.nan
        logits = self.head().logits(self._embedder.embed_all(judged.texts))
        return macro_f1(judged.targets, logits.argmax(axis=1)), -mean_loss(logits, judged.targets)

    def head(self) -> LinearHead:
        """The head as it stands."""
        return LinearHead(self._weights.detach().cpu().numpy().copy(), self._bias.detach().cpu().numpy().copy())

    def state(self) -> dict[str, Any]:
        """A copy of everything that trains."""
        return {"body": trainable_state(self._embedder), "head": copy.deepcopy([self._weights.data, self._bias.data])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave."""
        load_state(self._embedder, state["body"])
        self._weights.data, self._bias.data = state["head"]

    def _loss(self, rows: IntArray) -> Tensor:
        picked = torch.from_numpy(rows).to(self._embedder.device)
        logits = self._embedder.embed(self._training.texts, rows) @ self._weights + self._bias
        losses = functional.cross_entropy(
            logits, self._targets[picked], reduction="none", label_smoothing=self._schedule.label_smoothing
        )
        loss = (losses * self._weighing[picked]).mean()
        teacher = self._teacher
        if teacher is not None and self._config.distillation and (asked := teacher.asked[rows]).any():
            said = torch.tensor(teacher.logits[rows[asked]], dtype=torch.float32, device=logits.device)
            student = logits[torch.from_numpy(asked)][:, torch.from_numpy(teacher.columns)]
            share = float(asked.mean())
            loss = loss + self._config.distillation * share * distillation_loss(
                student, said, self._config.distillation_temperature
            )
        if self._held is not None:
            given, aims, weight = self._held
            loss = loss + weight * functional.cross_entropy(given @ self._weights + self._bias, aims)
        return loss


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over texts (Hinton et al. 2015)."""
    said = functional.log_softmax(teacher / temperature, dim=1)
    says = functional.log_softmax(student / temperature, dim=1)
    return functional.kl_div(says, said, reduction="batchmean", log_target=True) * temperature**2


def mean_loss(logits: FloatArray, targets: IntArray) -> float:
    """Mean of -log p(target)."""
    return float(losses_of(logits, targets).mean())


def losses_of(logits: FloatArray, targets: IntArray) -> FloatArray:
    """-log p(target) of each text, shape (n,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: FloatArray = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]
    return found


def _told(number: int, epochs: int, loss: float, f1: float, seconds_left: float) -> str:
    judged = "" if math.isnan(f1) else f", macro-F1 {f1:.3f}"
    return f"epoch {number} of {epochs}: loss {loss:.3f}{judged}, {seconds_left:.0f} s left"
