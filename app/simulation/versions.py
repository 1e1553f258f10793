"""What became of each version, as one row of the demonstration's table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.simulation.client import Client
from app.simulation.traffic import Tally

NO_MODEL: Final = "no model"


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate in [0, 1] and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version: how it was judged before the flip, and what it answered since.

    `confused`: true label, answered label and how often, out of fold, the most frequent first.
    """

    version: str
    state: str
    labels: int
    gold: int
    macro_f1: Interval | None
    tally: Tally
    confused: tuple[tuple[str, str, int], ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing will be added to it."""
        return self.state not in ("serving", "loading", "waiting")


@dataclass(frozen=True, slots=True)
class RuleAccount:
    """What the keyword rules did.

    `judged` texts that a rule had matched were labelled by a person, and in `agreed` of them the rule was right.
    `with_rules` and `model_alone` are the last version's macro-F1 on gold, None where it was not measured.
    `best`: keyword, label, questions matched and source, the most used first.
    """

    by_hand: int
    mined: int
    waiting: int
    # Questions before the first version, and those of them that rules answered, and answered rightly.
    asked_without_model: int
    answered_without_model: int
    right_without_model: int
    used: int
    judged: int
    agreed: int
    with_rules: float | None
    model_alone: float | None
    best: tuple[tuple[str, str, int, str], ...]


def rule_account(
    active: Sequence[Mapping[str, Any]], waiting: int, evaluation: Mapping[str, Any], without_model: Tally
) -> RuleAccount:
    """Sum up the rules that serve at the end. `evaluation`: of the last version that served."""
    used = sorted(active, key=lambda rule: (-rule["usage_count"], rule["keyword"]))
    alone = (evaluation.get("rules") or {}).get("model_alone") or {}
    gold = interval((evaluation.get("gold") or {}).get("macro_f1"))
    return RuleAccount(
        by_hand=sum(rule["source"] == "manual" for rule in active),
        mined=sum(rule["source"] == "mined" for rule in active),
        waiting=waiting,
        asked_without_model=without_model.asked,
        answered_without_model=without_model.methods["keyword_fallback"],
        right_without_model=without_model.correct,
        used=sum(rule["usage_count"] for rule in active),
        judged=sum(rule["judged_count"] for rule in active),
        agreed=sum(rule["success_count"] for rule in active),
        with_rules=gold.value if gold else None,
        model_alone=alone.get("macro_f1"),
        best=tuple((rule["keyword"], rule["intent"], rule["usage_count"], rule["source"]) for rule in used[:5]),
    )


@dataclass(frozen=True, slots=True)
class Account:
    """What the demonstration comes to. `first` and `last`: the first and the last version that served."""

    first: VersionRow | None
    last: VersionRow | None
    labels: int
    versions: int
    refused: int
    asked: int
    requests: int
    failed: int
    failures: Mapping[str, int]
    rules: RuleAccount | None = None

    @property
    def confused(self) -> list[tuple[str, str, int]]:
        """The five pairs that the last version takes for each other most often."""
        return list(self.last.confused[:5]) if self.last else []


class VersionBook:
    """Follows the versions of a domain; an evaluation never changes, so each is fetched once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._evaluations: dict[str, Mapping[str, Any]] = {}

    def rows(
        self, stats: Mapping[str, Any], tallies: Mapping[str | None, Tally], loaded: str | None
    ) -> list[VersionRow]:
        """A row for the time before the first model, and one for each version, the oldest first."""
        rows = [_without_model(tallies, active=loaded is None)]
        for version in reversed(stats["versions"]):
            name = version["version"]
            if name not in self._evaluations:
                self._evaluations[name] = self._client.version(name)["evaluation"]
            evaluation = self._evaluations[name]
            gold = evaluation.get("gold") or {}
            rows.append(
                VersionRow(
                    version=name,
                    state=_state(version, loaded, was_loaded=name in tallies),
                    labels=version["train_count"],
                    gold=version["gold_count"] or 0,
                    macro_f1=interval(gold.get("macro_f1")),
                    tally=tallies.get(name) or Tally(),
                    confused=tuple(
                        (truth, answer, times)
                        for truth, answer, times in (evaluation.get("out_of_fold") or {}).get("confusions", ())
                    ),
                )
            )
        return rows


def _without_model(tallies: Mapping[str | None, Tally], *, active: bool) -> VersionRow:
    state = "waiting" if active else "served"
    return VersionRow(NO_MODEL, state, 0, 0, None, tallies.get(None) or Tally())


def _state(version: Mapping[str, Any], loaded: str | None, *, was_loaded: bool) -> str:
    if version["version"] == loaded:
        return "serving"
    if version["is_active"]:
        return "loading"
    return "served" if was_loaded and version["status"] == "passed" else str(version["status"])


def interval(figure: Any) -> Interval | None:
    """The estimate of an evaluation, or None when it has none."""
    if not isinstance(figure, Mapping) or figure.get("value") is None:
        return None
    value = float(figure["value"])
    low, high = figure.get("low"), figure.get("high")
    return Interval(value, value if low is None else float(low), value if high is None else float(high))


def account(rows: Sequence[VersionRow], *, labels: int, client: Client) -> Account:
    """Sum up at the end."""
    served = [row for row in rows if row.version != NO_MODEL and row.tally.asked]
    return Account(
        first=served[0] if served else None,
        last=served[-1] if served else None,
        labels=labels,
        versions=len(rows) - 1,
        refused=sum(row.state == "refused" for row in rows),
        asked=sum(row.tally.asked for row in rows),
        requests=client.sent,
        failed=client.failed,
        failures=dict(client.failures),
        rules=_rules(client, served[-1].version, rows[0].tally) if served else None,
    )


def _rules(client: Client, version: str, without_model: Tally) -> RuleAccount:
    evaluation = client.version(version)["evaluation"]
    waiting = len(client.rules(status="candidate"))
    return rule_account(client.rules(status="active"), waiting, evaluation, without_model)
