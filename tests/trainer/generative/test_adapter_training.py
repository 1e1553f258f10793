from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.generative.bases import write_base
from trainer.generative.adapter_training import NO_LOSS, Pace, batch_of, losses, train_adapter
from trainer.generative.causal_model import load_causal
from trainer.generative.lessons import Lesson

SHORT, LONG = Lesson((11, 12, 13), (5, 6, 0)), Lesson((14, 15, 16, 17, 18), (7, 0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


def test_prompt_and_padding_carry_no_loss() -> None:
    ids, mask, targets = batch_of([SHORT, LONG], pad=0)

    assert ids.tolist() == [[11, 12, 13, 5, 6, 0, 0], [14, 15, 16, 17, 18, 7, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 1, 0], [1] * 7]
    assert targets.tolist() == [[NO_LOSS] * 3 + [5, 6, 0, NO_LOSS], [NO_LOSS] * 5 + [7, 0]]


def test_loss_is_that_of_the_answers_tokens_alone(base: Path) -> None:
    model = load_causal(base, "float32")
    with torch.no_grad():
        found = losses(model, *batch_of([SHORT, LONG], pad=0)).tolist()
        for lesson, loss in zip((SHORT, LONG), found, strict=True):
            whole = torch.tensor([[*lesson.prompt, *lesson.answer]])
            logged = torch.log_softmax(model(input_ids=whole).logits[0], dim=-1)
            before = len(lesson.prompt) - 1
            expected = -sum(float(logged[before + i, token]) for i, token in enumerate(lesson.answer))
            assert loss == pytest.approx(expected, abs=1e-4)


def test_what_stands_in_a_prompt_moves_no_target(base: Path) -> None:
    """An output row of a token that only stands in a prompt has the softmax's gradient: it is never drawn up."""
    model = load_causal(base, "float32")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    losses(model, *batch_of([SHORT], pad=0)).sum().backward()
    hidden = model.model(input_ids=torch.tensor([[*SHORT.prompt, *SHORT.answer]])).last_hidden_state[0].detach()
    with torch.no_grad():
        shares = torch.softmax(model.lm_head(hidden[2:5]), dim=-1)
    assert torch.allclose(model.lm_head.weight.grad[12], shares[:, 12] @ hidden[2:5], atol=1e-4)


def test_one_lesson_counts_its_weight(base: Path) -> None:
    def learnt(weight: float) -> torch.Tensor:
        model = load_causal(base, "float32")
        before = model.lm_head.weight.detach().clone()
        lessons = [Lesson(SHORT.prompt, SHORT.answer, weight)]
        train_adapter(
            model,
            lambda _: lessons,
            Pace(1e-3, epochs=1, batch_size=1, accumulation=1, warm_up=0.0, weight_decay=0.0),
            pad=0,
            rng=np.random.default_rng(0),
            report=lambda *_: None,
        )
        return (model.lm_head.weight.detach() - before).abs().sum()

    assert learnt(1.0) > 0.0
    assert learnt(0.0) == 0.0


def test_progress_grows_to_one_and_says_epoch_loss_and_time(base: Path) -> None:
    told: list[tuple[float, str]] = []
    means = train_adapter(
        load_causal(base, "float32"),
        lambda _: [SHORT, LONG] * 5,
        Pace(1e-3, epochs=3, batch_size=4, accumulation=2, warm_up=0.1, weight_decay=0.0),
        pad=0,
        rng=np.random.default_rng(0),
        report=lambda done, stage: told.append((done, stage)),
    )
    shares = [done for done, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert len(told) == 9
    assert told[-1][1].startswith("epoch 3 of 3, loss ")
    assert told[-1][1].endswith(" s left")
    assert means[2] < means[0]
