"""Dashboard and alerts load, and ask only for what a running application tells."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.conftest import Service, served
from tests.conftest import Databases

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
# Of PromQL: what these files use of it. A word that is none of these, no metric and no label is a slip of the pen.
FUNCTIONS = {"rate", "increase", "changes", "histogram_quantile", "label_values", "sum", "max", "min"}
WORDS = {"by", "on", "and", "unless", "or"}
OF_PROMETHEUS = {"up", "job", "instance", "le"}


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


QUERIES = [*dashboard_queries(), *((rule["alert"], rule["expr"]) for rule in RULES)]


@pytest.fixture(scope="module")
def told(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every series of a real application by name, with the labels that it has."""
    folder = tmp_path_factory.mktemp("told")
    with served(databases.fresh("sqlite", folder), folder) as service:
        _live(service)
        text = service.get("/metrics").text
    names: dict[str, set[str]] = {}
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", text, flags=re.MULTILINE):
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            names[name + suffix] = set()
    for name, labels in re.findall(r"^(\w+)\{(.*)\} ", text, flags=re.MULTILINE):
        names[name] |= set(re.findall(r'(\w+)="', labels))
    # Their labels are those of rows that this application does not have.
    names["intentloop_batches"] |= {"domain", "status"}
    names["intentloop_job_runs_total"] |= {"job", "outcome"}
    return names


def _live(service: Service) -> None:
    service.classify("你好")
    service.get("/nowhere")


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[f"{i}-{title}" for i, (title, _) in enumerate(QUERIES)])
def test_a_query_asks_for_series_that_are_told_by_labels_that_they_have(
    told: dict[str, set[str]], title: str, query: str
) -> None:
    bare = re.sub(r"\"[^\"]*\"|\$\w+|\[[^\]]*\]", "", query)
    names = set(re.findall(r"\bintentloop_\w+", bare))
    assert names or "up" in bare
    assert names <= told.keys()
    labels = set().union(*(told[name] for name in names)) | OF_PROMETHEUS
    others = set(re.findall(r"[A-Za-z_]\w*", bare)) - names - FUNCTIONS - WORDS
    assert others <= labels, f"{others - labels} are no labels of {names}"


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[f"{i}-{title}" for i, (title, _) in enumerate(QUERIES)])
def test_a_query_is_balanced_and_rates_only_counters(title: str, query: str) -> None:
    depth: list[str] = []
    for mark in re.sub(r"\"[^\"]*\"", "", query):
        if mark in "([{":
            depth.append(mark)
        elif mark in ")]}":
            assert depth.pop() + mark in ("()", "[]", "{}"), query
    assert not depth, query
    for name in re.findall(r"\b(?:rate|increase)\((\w+)", query):
        assert name.endswith(("_total", "_bucket", "_sum", "_count")), name
    for name in re.findall(r"\b(intentloop_\w+_(?:total|bucket|sum|count))\b", query):
        assert re.search(rf"\b(rate|increase)\({name}", query), f"{name} only ever grows"


def test_the_page_of_metrics_names_each_and_no_other(told: dict[str, set[str]]) -> None:
    page = (DEPLOY.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(intentloop_\w+)", page, flags=re.MULTILINE))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told}
    own = {name for name in documented | families if "_process_" not in name}
    assert documented & own == families & own
    assert documented <= families


def test_panels_have_a_place_of_their_own_and_the_data_source_of_the_dashboard() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns, lines = (range(place[start], place[start] + place[size]) for start, size in ("xw", "yh"))
        cells = {(x, y) for x in columns for y in lines}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["fieldConfig"]["defaults"]["unit"]


def test_alerts_have_what_prometheus_and_people_need() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 8
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        for name in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            # A label that the expression has summed away would be empty in the message.
            assert name in rule["expr"] or ("sum" not in rule["expr"] and "max" not in rule["expr"])
