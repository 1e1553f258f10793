"""Keyword rules of a domain: list, write, activate, retire and mine them, keep its dictionary, choose its policy."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from app.cli.opening import DomainOption, JsonOption, console, database, log_to_stderr, print_json, settings
from app.cli.running import context
from app.db.tables import KeywordRule
from app.errors import IntentError
from app.intent.text import normalise
from app.services import audit, domains, mining, rule_wording, rules
from app.services.audit import COMMAND_LINE

app = typer.Typer(help="Keyword rules: what a word says about the label.", no_args_is_help=True)
dictionary = typer.Typer(help="Words of a domain that mining must not cut.", no_args_is_help=True)
app.add_typer(dictionary, name="dictionary")

RuleArgument = Annotated[int, typer.Argument(min=1, help="Number of the rule.")]
SHOWN = (
    "id", "keyword", "intent", "all_of", "none_of", "pattern", "status", "reason", "source", "confidence_boost",
    "usage_count", "judged_count", "success_count", "support", "precision", "precision_lower", "coverage", "log_odds",
    "examples", "created_by", "created_at", "updated_at", "activated_at", "retired_at",
)  # fmt: skip


class Status(StrEnum):
    """What a rule can be."""

    candidate = "candidate"
    active = "active"
    retired = "retired"


class Source(StrEnum):
    """Where a rule comes from."""

    mined = "mined"
    manual = "manual"


class Policy(StrEnum):
    """Who activates mined rules."""

    auto = "auto"
    manual = "manual"


@app.command("list")
def list_rules(
    domain: DomainOption = domains.DEFAULT,
    status: Annotated[Status | None, typer.Option(help="Only those that are so.")] = None,
    source: Annotated[Source | None, typer.Option(help="Only those from there.")] = None,
    intent: Annotated[str | None, typer.Option(help="Only those of this label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the keyword rules of a domain, the newest first."""

    def read(session: Session) -> list[dict[str, Any]]:
        found = domains.find(session, domain)
        label = None if intent is None else normalise(intent)
        rows = rules.listing(session, found.id, limit=limit, status=status, source=source, intent=label)
        return [_row(row) for row in rows]

    with database(settings()) as work:
        rows = work.read(read)
    if as_json:
        print_json(rows)
        return
    table = Table("rule", "keyword", "label", "status", "source", "out of fold", "matched", "agreed", "reason")
    for row in rows:
        evidence = f"{row['precision']:.2f} of {row['support']}" if row["precision"] is not None else "–"
        table.add_row(
            str(row["id"]),
            escape(row["keyword"]),
            escape(row["intent"]),
            row["status"],
            row["source"],
            evidence,
            str(row["usage_count"]),
            f"{row['success_count']} of {row['judged_count']}",
            escape(row["reason"] or ""),
        )
    console.print(table)


@app.command("add")
def add_rule(
    intent: Annotated[str, typer.Argument(help="The label, as its path joined by ' > '.")],
    keyword: Annotated[str | None, typer.Argument(help="The word; beside --all-of or --pattern a name.")] = None,
    all_of: Annotated[list[str] | None, typer.Option("--all-of", help="A word that must be there; repeat it.")] = None,
    none_of: Annotated[list[str] | None, typer.Option("--none-of", help="A word that must not; repeat it.")] = None,
    pattern: Annotated[str | None, typer.Option(help="RE2 syntax, found anywhere.")] = None,
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Write a rule for a label; it is proved with the others and serves when the clock flips."""
    wording = rule_wording.read(keyword, all_of or (), none_of or (), pattern)

    def create(session: Session) -> tuple[dict[str, Any], list[str]]:
        saved = rules.create(session, domain, wording, intent=normalise(intent), by=COMMAND_LINE)
        return _row(saved.rule), [f"rule {one.id} ({one.intent})" for one in saved.conflicts]

    with database(settings()) as work:
        row, conflicts = work(create)
    if as_json:
        print_json(row | {"conflicts": conflicts})
        return
    console.print(f"Rule {row['id']} is {row['status']}: {row['keyword']} → {row['intent']}", markup=False)
    if conflicts:
        console.print(f"Its keyword has another label in {', '.join(conflicts)}.", markup=False)


@app.command("activate")
def activate_rule(rule: RuleArgument, as_json: JsonOption = False) -> None:
    """Let a candidate serve, or bring a retired rule back."""

    def act(session: Session) -> dict[str, Any]:
        return _row(rules.change(session, rule, {"status": "active"}, by=COMMAND_LINE).rule)

    _tell(act, as_json)


@app.command("retire")
def retire_rule(rule: RuleArgument, as_json: JsonOption = False) -> None:
    """Let a rule serve no more; its row stays with what it brought."""

    def act(session: Session) -> dict[str, Any]:
        return _row(rules.retire(session, rule, by=COMMAND_LINE))

    _tell(act, as_json)


@app.command("mine")
def mine_rules(
    domain: DomainOption = domains.DEFAULT,
    min_confidence: Annotated[float, typer.Option(min=0.5, max=1.0, help="Least precision out of fold.")] = 0.8,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most rules, the most typical.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Mine rules from the labelled texts of one domain now; `intentloop job mine_keywords` does it for all."""
    from jobs.mine_keywords import mine_domain

    given = settings()
    log_to_stderr()
    with database(given) as work:
        found = mine_domain(
            context(given, work),
            domain,
            min_confidence=min_confidence,
            limit=limit,
            by=COMMAND_LINE,
            patience_seconds=0,
        )
    if as_json:
        print_json({"domain": domain, **found})
        return
    counts = ", ".join(f"{name} {count}" for name, count in found.items() if name != "rule_ids")
    console.print(f"Domain {domain}: {counts}", markup=False)


@app.command("policy")
def choose_policy(
    policy: Annotated[Policy | None, typer.Argument(help="auto: by evidence; manual: by people.")] = None,
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Say who activates mined rules of a domain; without an argument print who does."""

    def act(session: Session) -> str:
        found = domains.locked(session, domain) if policy else domains.find(session, domain)
        before = found.rule_policy
        if policy is not None and policy != before:
            found.rule_policy = policy.value
            audit.note(
                session,
                COMMAND_LINE,
                "domain.change",
                f"domain {found.name}",
                domain_id=found.id,
                before={"rule_policy": before},
                after={"rule_policy": policy.value},
            )
        return found.rule_policy

    with database(settings()) as work:
        now = work(act) if policy else work.read(act)
    if as_json:
        print_json({"domain": domain, "rule_policy": now})
    else:
        console.print(f"Mined rules of domain {domain} become active: {now}.")


@dictionary.command("show")
def show_dictionary(domain: DomainOption = domains.DEFAULT, as_json: JsonOption = False) -> None:
    """Print the words, one a line."""
    with database(settings()) as work:
        words = work.read(lambda session: domains.find(session, domain).dictionary or [])
    _print_words(domain, words, as_json)


@dictionary.command("set")
def set_dictionary(
    file: Annotated[Path, typer.Argument(help="One word a line; an empty file clears.", exists=True, dir_okay=False)],
    domain: DomainOption = domains.DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Make the words of a file the ones that mining must not cut."""
    try:
        words = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise IntentError(f"{file} is not UTF-8") from error

    def replace(session: Session) -> list[str]:
        found = domains.locked(session, domain)
        before = len(found.dictionary or ())
        kept = mining.set_dictionary(session, found, words)
        audit.note(
            session,
            COMMAND_LINE,
            "dictionary.change",
            f"domain {found.name}",
            domain_id=found.id,
            before={"words": before},
            after={"words": len(kept)},
        )
        return kept

    with database(settings()) as work:
        kept = work(replace)
    _print_words(domain, kept, as_json)


def _tell(act: Any, as_json: bool) -> None:
    with database(settings()) as work:
        row = work(act)
    if as_json:
        print_json(row)
    else:
        console.print(f"Rule {row['id']} is {row['status']}: {row['keyword']} → {row['intent']}", markup=False)


def _print_words(domain: str, words: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"domain": domain, "words": words})
        return
    for word in words:
        typer.echo(word)


def _row(rule: KeywordRule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in SHOWN}
