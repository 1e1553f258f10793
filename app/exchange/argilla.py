"""Argilla's records, nested, flattened, or as its first version wrote them: find the one answer to the one question."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.exchange.label_studio import text_among
from app.exchange.rows import LabelledRow, Named, RowRefused, labelled_row, one_label

_QUESTIONS = ("label", "labels", "intent", "intent_code")
_NOT_SUBMITTED = frozenset({"draft", "discarded", "pending"})


def knows(record: Mapping[str, Any]) -> bool:
    """Whether a record is Argilla's, in one of its three shapes."""
    return _is_nested(record) or _is_flat(record) or _is_first_version(record)


def read(line: int, record: Mapping[str, Any], guesses: bool) -> LabelledRow:
    """The record's text and label.

    Raises:
        RowRefused: nobody submitted an answer, or the answers are no single label.
    """
    if _is_first_version(record) and not _is_nested(record):
        return _first_version(line, record, guesses)
    if not _is_nested(record):
        record = _nested(record)
    text = text_among(record["fields"], "fields")
    answers = _responses(record.get("responses"))
    if not answers and guesses:
        answers = _suggestions(record.get("suggestions"))
    return labelled_row(line, text, _answer(answers))


def _is_nested(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("fields"), dict) and bool({"responses", "suggestions"} & record.keys())


def _is_flat(record: Mapping[str, Any]) -> bool:
    return any(key.endswith((".responses", ".suggestion")) for key in record if isinstance(key, str))


def _is_first_version(record: Mapping[str, Any]) -> bool:
    named = record.get("label") is not None or record.get("labels") is not None
    return bool({"annotation", "prediction"} & record.keys()) and not named


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested shape of a flattened record, where `label.responses` stands beside the fields."""
    record: dict[str, Any] = {"fields": {}, "responses": {}, "suggestions": {}}
    for key, value in flat.items():
        question, _, rest = key.partition(".")
        if rest == "responses":
            statuses = flat.get(f"{key}.status")
            statuses = statuses if isinstance(statuses, list) else []
            record["responses"][question] = [
                {"value": given, "status": statuses[number] if number < len(statuses) else None}
                for number, given in enumerate(value if isinstance(value, list) else [])
            ]
        elif rest == "suggestion":
            record["suggestions"][question] = {"value": value}
        elif not rest and key not in ("id", "status", "_server_id"):
            record["fields"][key] = value
    return record


def _first_version(line: int, record: Mapping[str, Any], guesses: bool) -> LabelledRow:
    inputs = record.get("inputs")
    fields = inputs if "text" not in record and isinstance(inputs, dict) else record
    text = text_among(fields, "inputs") if fields is inputs else Named("text", record.get("text"))
    given = record.get("annotation")
    if given is None and guesses:
        given = _best(record.get("prediction"))
    if given is None or record.get("status") == "Discarded":
        raise RowRefused("it has no annotation: nobody labelled it", ignored=True)
    return labelled_row(line, text, one_label("annotation", given if isinstance(given, list) else [given]))


def _best(prediction: Any) -> Any:
    """The likeliest of `[{"label", "score"}, …]` or `[[label, score], …]`; what is no list is the label itself."""
    if not isinstance(prediction, list):
        return prediction
    scored = []
    for one in prediction:
        label, score = (one.get("label"), one.get("score")) if isinstance(one, dict) else _pair(one)
        scored.append((score if isinstance(score, int | float) else 0.0, label))
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _pair(one: Any) -> tuple[Any, Any]:
    return (one[0], one[1]) if isinstance(one, list) and len(one) == 2 else (one, None)


def _responses(given: Any) -> dict[str, list[Any]]:
    """The submitted values by question."""
    answers: dict[str, list[Any]] = {}
    for question, response in _each_response(given):
        if isinstance(response, dict) and response.get("status") not in _NOT_SUBMITTED:
            answers.setdefault(question, []).append(response.get("value"))
    return answers


def _each_response(given: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(given, dict):
        for question, responses in given.items():
            for response in responses if isinstance(responses, list) else [responses]:
                yield question, response
        return
    for response in given if isinstance(given, list) else []:
        values = response.get("values") if isinstance(response, dict) else None
        for question, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, dict):
                yield question, {"status": response.get("status"), "value": value.get("value")}


def _suggestions(given: Any) -> dict[str, list[Any]]:
    if isinstance(given, dict):
        return {question: [one.get("value")] for question, one in given.items() if isinstance(one, dict)}
    listed = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return {str(one.get("question_name", one.get("question_id"))): [one.get("value")] for one in listed}


def _answer(answers: Mapping[str, Sequence[Any]]) -> Named:
    """The answer to the one question that asks for a label."""
    if not answers:
        raise RowRefused("nobody submitted a response", ignored=True)
    question = next((name for name in _QUESTIONS if name in answers), None)
    if question is None and len(answers) > 1:
        raise RowRefused(f"{len(answers)} questions are answered, and none is called label")
    values = answers[question] if question is not None else next(iter(answers.values()))
    if any(value != values[0] for value in values):
        raise RowRefused(f"its {len(values)} responses disagree")
    return one_label("the response", values[0] if isinstance(values[0], list) else [values[0]])
