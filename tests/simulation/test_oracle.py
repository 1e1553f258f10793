"""What the oracle knows."""

from app.exchange.labelled import LabelledRow
from app.intent.masking import mask
from app.intent.text import normalise
from app.simulation.oracle import key, truths


def test_oracle_knows_a_text_as_the_queue_shows_it():
    asked = "我的手机号是 １３８1234５678，Ｗi-Fi连不上"
    shown = mask(normalise(asked))
    assert "【手机号】" in shown
    assert key(shown) == key(asked)


def test_twins_are_one_text_and_the_first_label_counts():
    rows = [LabelledRow(1, "Open  It", "a"), LabelledRow(2, "open it", "b"), LabelledRow(3, "close it", "b")]
    assert list(truths(rows).values()) == ["a", "b"]
