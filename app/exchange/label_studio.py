"""Label Studio's tasks: find the one choice that people agreed on."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.exchange.rows import LabelledRow, Named, RowRefused, labelled_row, one_label

_TEXT_KEYS = ("text", "question", "user_input", "sentence")


def knows(record: Mapping[str, Any]) -> bool:
    """Whether a record is a task. `completions` is the name that annotations had before version 1."""
    return isinstance(record.get("data"), dict) and bool({"annotations", "completions", "predictions"} & record.keys())


def read(line: int, record: Mapping[str, Any], guesses: bool) -> LabelledRow:
    """The task's text and label.

    Raises:
        RowRefused: nobody answered, all skipped, they disagree, or the answer is no single label.
    """
    text = text_among(record["data"], "data")
    meta = record.get("meta")
    proposed = meta.get("proposed_label") if isinstance(meta, dict) else None
    return labelled_row(line, text, _label(record, guesses), proposed)


def text_among(fields: Mapping[str, Any], name: str) -> Named:
    """The text among several fields: the one that is called so, or the only string.

    Raises:
        RowRefused: it cannot be told which one it is.
    """
    for key in _TEXT_KEYS:
        if key in fields:
            return Named(f"{name}.{key}", fields[key])
    strings = [key for key, value in fields.items() if isinstance(value, str)]
    if len(strings) != 1:
        raise RowRefused(f"{name} holds {len(strings)} texts, and none is called text")
    return Named(f"{name}'s only text", fields[strings[0]])


def _label(record: Mapping[str, Any], guesses: bool) -> Named:
    given = record.get("annotations") or record.get("completions") or []
    if not isinstance(given, list):
        raise RowRefused("annotations is not a list")
    answered = [one for one in given if isinstance(one, dict)]
    kept = [one for one in answered if not (one.get("was_cancelled") or one.get("skipped"))]
    if answered and not kept:
        raise RowRefused("its annotators skipped it", ignored=True)
    kept = [one for one in kept if one.get("ground_truth")] or kept
    if not kept and guesses and isinstance(record.get("predictions"), list):
        # The last one is the newest.
        kept = [one for one in record["predictions"] if isinstance(one, dict)][-1:]
    if not kept:
        raise RowRefused("it has no annotation: nobody labelled it", ignored=True)
    answers = [_chosen(one) for one in kept]
    if any(answer != answers[0] for answer in answers):
        raise RowRefused(f"its {len(answers)} annotations disagree")
    return one_label("the annotation", answers[0])


def _chosen(annotation: Mapping[str, Any]) -> list[Any]:
    """The labels of one annotation, each as its levels."""
    result = annotation.get("result")
    if not isinstance(result, list):
        raise RowRefused("an annotation has no list of results")
    regions = [region for region in result if isinstance(region, dict)]
    chosen = [_levels(choice) for region in regions for choice in _choices(region.get("value"))]
    if regions and not chosen:
        raise RowRefused("the annotation holds neither choices nor a taxonomy")
    return chosen


def _choices(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in ("choices", "taxonomy"):
            given = value.get(key, [])
            yield from given if isinstance(given, list) else [given]


def _levels(choice: Any) -> Any:
    """A choice of a tree is its levels, a flat one a string."""
    return choice[0] if isinstance(choice, list) and len(choice) == 1 else choice
