"""The documentation names what there is: routes, fields, commands, jobs, settings, error codes, tables, links.

`docs/settings.md` is written by this file: `.venv/bin/python -m tests.test_docs` after a change of `app/settings.py`.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic.fields import FieldInfo

import app.settings
from app import errors
from app.cli import app as commands
from app.db.tables import Base
from app.main import create_app
from app.settings import Settings
from jobs.timetable import TIMETABLE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SETTINGS = DOCS / "settings.md"
DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
WITH_CURL = [DOCS / "api.md", *sorted(ROOT.glob("README*.md"))]
# Made by the frame's own handlers, not by a class of app.errors.
CODES_OF_THE_FRAME = {"method_not_allowed": 405}
MOST_LINES_OF_A_DECISION = 60
LONGEST_LINE = 120

Route = tuple[str, str]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def everything() -> str:
    return "\n".join(text_of(page) for page in sorted(DOCS.rglob("*.md")))


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    document: dict[str, Any] = create_app(Settings(data_dir=tmp_path_factory.mktemp("data"))).openapi()
    return document


@pytest.fixture(scope="module")
def routes(openapi: dict[str, Any]) -> set[Route]:
    return {(method.upper(), path) for path, methods in openapi["paths"].items() for method in methods}


# Routes, fields, error codes


def test_api_has_a_heading_for_every_route_and_for_no_other(routes: set[Route]) -> None:
    headings = re.findall(r"^### (GET|POST|PUT|PATCH|DELETE) (\S+)$", text_of(DOCS / "api.md"), flags=re.MULTILINE)
    assert set(headings) == routes
    assert len(headings) == len(routes)


def test_api_names_every_field_of_every_request_and_answer(openapi: dict[str, Any]) -> None:
    words = set(re.findall(r"\w+", text_of(DOCS / "api.md")))
    schemas = openapi["components"]["schemas"].items()
    # What FastAPI puts into the document for its own 422, which this service never sends.
    own = {name: schema for name, schema in schemas if name not in ("HTTPValidationError", "ValidationError")}
    missing = {
        f"{name}.{field}"
        for name, schema in own.items()
        for field in schema.get("properties", {})
        if field not in words
    }
    assert not missing


def test_api_names_every_parameter(openapi: dict[str, Any]) -> None:
    words = set(re.findall(r"[\w-]+", text_of(DOCS / "api.md").lower()))
    named = {
        parameter["name"].lower()
        for methods in openapi["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
    }
    assert named <= words


def test_api_lists_every_error_code_with_its_status_and_no_other() -> None:
    table = text_of(DOCS / "api.md").partition("\n## Errors\n")[2]
    listed = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d{3}) \|", table, flags=re.MULTILINE)}
    assert listed == error_codes() | CODES_OF_THE_FRAME


def error_codes() -> dict[str, int]:
    classes = [errors.IntentError]
    for cls in classes:
        classes.extend(cls.__subclasses__())
    return {cls.code: cls.status_code for cls in classes if cls.__module__ == errors.__name__}


@pytest.mark.parametrize("page", WITH_CURL, ids=lambda page: page.name)
def test_every_curl_command_asks_an_existing_route(page: Path, routes: set[Route]) -> None:
    asked = list(curl_commands(text_of(page)))
    assert asked, "no curl command was found: is this test still reading the page?"
    for method, path in asked:
        assert any(method == known and fits(path, template) for known, template in routes), f"{method} {path}"


def curl_commands(markdown: str) -> Iterator[Route]:
    """Method and path of every curl command in the code blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL):
        for command in re.findall(r"\bcurl (.*?)(?:\)|\||$)", block.replace("\\\n", " "), flags=re.MULTILINE):
            words = shlex.split(command, comments=True)
            [url] = [word for word in words if re.match(r"https?://|\$\{?\w+\}?/", word)]
            method = next((words[i + 1] for i, word in enumerate(words) if word in ("-X", "--request")), None)
            sends = any(word in ("-d", "--data", "--data-binary", "--json") for word in words)
            yield method or ("POST" if sends else "GET"), url_path(url)


def url_path(url: str) -> str:
    """The path of an address that begins with a host, or with `$SERVICE` or `$LOOP` in its place."""
    without_query = url.split("?")[0]
    if without_query.startswith("$LOOP/"):
        return "/api/v1/model-tuning/" + without_query.removeprefix("$LOOP/")
    return "/" + re.sub(r"^(https?://[^/]+|\$\w+)/", "", without_query)


def fits(path: str, template: str) -> bool:
    parts, wanted = path.split("/"), template.split("/")
    # A part that the page leaves open ($QUESTION, QUESTION_ID) fits only where the route takes one.
    return len(parts) == len(wanted) and all(
        want.startswith("{") or part == want for part, want in zip(parts, wanted, strict=True)
    )


# Commands, jobs, tables


def command_lines(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be typed, with its whole name."""
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child in children.values():
        yield from command_lines(child, f"{name} {child.name}")


COMMANDS = dict(command_lines(typer.main.get_command(commands), "intentloop"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_described(name: str) -> None:
    found = re.search(
        rf"^### `{name}(?: [^`]*)?`$(.*?)(?=^##|\Z)", text_of(DOCS / "commands.md"), re.MULTILINE | re.DOTALL
    )
    assert found, f"docs/commands.md has no heading for {name}"
    for parameter in COMMANDS[name].params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert f"`{option}`" in found[1], f"{name} {option}"


def test_no_command_is_described_that_is_gone() -> None:
    described = re.findall(r"^### `(intentloop(?: [a-z]+)+)", text_of(DOCS / "commands.md"), flags=re.MULTILINE)
    assert set(described) == set(COMMANDS)


@pytest.mark.parametrize("job", TIMETABLE)
def test_every_job_is_described(job: str) -> None:
    assert f"`{job}`" in text_of(DOCS / "flow.md")


@pytest.mark.parametrize("table", sorted(Base.metadata.tables))
def test_every_table_is_in_the_glossary(table: str) -> None:
    assert f"`{table}`" in text_of(DOCS / "glossary.md")


def test_no_table_is_described_that_is_gone() -> None:
    # `intent_code` is a field of files that are imported.
    named = set(re.findall(r"`(intent_[a-z_]+)`", everything())) - {"intent_code"}
    assert named <= set(Base.metadata.tables)


# Settings


def test_settings_page_is_the_one_that_the_settings_write() -> None:
    assert text_of(SETTINGS) == settings_page(), "run `.venv/bin/python -m tests.test_docs`"


def settings_page() -> str:
    """`docs/settings.md`: a table for each group of `app/settings.py`, in its order."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `python -m tests.test_docs` from app/settings.py: change that file, not this one. -->",
        "",
        "Each setting is an environment variable, or a line of a `.env` file in the working directory. The environment",
        "wins. An empty value counts as not set; a value out of range stops the start with exit status 2. Lists are",
        'JSON: `INTENTLOOP_CORS_ORIGINS=["https://console.example.com"]`.',
        "",
        "What belongs to one domain (recipe, gate, keeping texts) is a column of the domain and not a setting: see",
        "[POST /api/v1/model-tuning/domains](api.md#post-apiv1model-tuningdomains).",
    ]
    groups = groups_of_settings()
    for name, field in Settings.model_fields.items():
        if name in groups:
            lines += ["", f"## {groups[name]}", "", "| variable | default | range | meaning |", "|---|---|---|---|"]
        lines.append(f"| `INTENTLOOP_{name.upper()}` | {default_of(field)} | {range_of(field)} | {meaning_of(field)} |")
    return "\n".join(lines) + "\n"


def groups_of_settings() -> dict[str, str]:
    """The first setting of each group, and the comment that stands above it in the source."""
    source = text_of(Path(app.settings.__file__))
    return {name: title for title, name in re.findall(r"^    # (.+)\n    (\w+): ", source, flags=re.MULTILINE)}


def default_of(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "–"
    return f"`{json.dumps(value) if isinstance(value, list | tuple) else value}`"


def meaning_of(field: FieldInfo) -> str:
    # "<data_dir>" would be taken for a tag.
    return (field.description or "").replace("<", "&lt;").replace("|", "\\|")


def range_of(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, name):,}"
        for rule in field.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    ]
    return ", ".join(bounds) or "–"


# Links, decisions, form


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get: lower case, spaces as dashes, no other marks."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.stem)
def test_decision_has_its_four_parts_on_one_page(decision: Path) -> None:
    page = text_of(decision)
    assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
        "Alternatives",
    ]
    assert page.count("\n") <= MOST_LINES_OF_A_DECISION
    assert page.startswith(f"# {int(decision.stem[:4])}. ")


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    assert [int(decision.stem[:4]) for decision in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", text_of(DOCS / "decisions" / "README.md"))
    assert listed == [decision.name for decision in DECISIONS]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short_enough_to_be_read(page: Path) -> None:
    # A row of a table cannot be broken.
    long = [line for line in text_of(page).splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert not long


if __name__ == "__main__":
    SETTINGS.write_text(settings_page(), encoding="utf-8")
