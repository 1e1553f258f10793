"""What a person sees of a running loop."""

from collections import Counter
from io import StringIO

from rich.console import Console

from app.simulation.client import Client
from app.simulation.display import addresses, cells, screen, story, table
from app.simulation.traffic import Tally
from app.simulation.versions import NO_MODEL, Account, Interval, VersionRow, account, interval

TALLY = Tally(200, 150, 50, 30, Counter(local_model=190, none=10))
CONFUSED = (("a > 开机", "a > 关机", 3),)


GOLD = Interval(0.8, 0.7, 0.9)


def row(version="v1", state="serving", tally=TALLY, gold=GOLD):
    return VersionRow(version, state, 90, 20, gold, tally, CONFUSED)


def printed(console):
    return console.file.getvalue()


def plain_console():
    return Console(file=StringIO(), width=80)


def test_a_row_shows_labels_gold_with_its_interval_traffic_and_methods():
    assert cells(row()) == (
        "v1",
        "serving",
        "90",
        "20",
        "0.80 (0.70–0.90)",
        "75% /200",
        "60%",
        "local_model 95%, none 5%",
    )


def test_a_version_without_traffic_or_gold_shows_dashes():
    assert cells(row(tally=Tally(), gold=None))[4:] == ("–", "–", "–", "–")


def test_the_table_names_every_version_and_the_failed_requests():
    console = Console(file=StringIO(), width=200)
    console.print(table([row(NO_MODEL, "served"), row("v2")], "a batch is training", failed=3))
    assert all(word in printed(console) for word in (NO_MODEL, "v2", "a batch is training", "failed requests: 3"))


def test_the_table_fits_a_terminal_of_80_columns():
    console = Console(file=StringIO(), width=80)
    wide = Tally(2000, 1500, 500, 300, Counter(local_model=1900, keyword_fallback=100))
    console.print(table([row(NO_MODEL, "served"), row("default-v10", tally=wide)], "", failed=0))
    assert "…" not in printed(console)
    assert max(map(len, printed(console).splitlines())) <= 80


def test_without_a_terminal_each_row_is_printed_once_when_it_is_over():
    console, client = plain_console(), Client("http://127.0.0.1:1")
    with screen(console, client) as show:
        show([row("v1")], "")
        assert "v1" not in printed(console)
        show([row("v1", "served"), row("v2", "refused"), row("v3")], "")
        show([row("v1", "served"), row("v2", "refused"), row("v3")], "")
        assert printed(console).count("v1") == printed(console).count("v2") == 1
        assert "v3" not in printed(console)
    assert printed(console).count("v3") == 1
    assert {line.count("|") for line in printed(console).splitlines()[1:]} == {8}


def test_the_story_tells_what_was_learned_refused_and_is_still_confused():
    first = row("v1", "served", Tally(100, 50, 20, 10))
    told = Account(first, row("v3"), 300, 3, 1, 300, 1000, 2, {"POST /classify: 503 overloaded": 2})
    text = "\n".join(story(told))
    assert "50.0% → 75.0% from the first version to the last, by 300 labels" in text
    assert "never asked before: 50.0% → 60.0%" in text
    assert "3 versions were trained, 1 of them refused" in text
    assert "开机 taken for 关机 (3×)" in text
    assert "2 of 1000 requests failed" in text
    assert "503 overloaded: 2×" in text


class Told(Client):
    """A client whose service has two rules: one by hand that serves, a mined one that waits."""

    def version(self, version):
        return {
            "evaluation": {"gold": {"macro_f1": {"value": 0.8}}, "rules": {"model_alone": {"macro_f1": 0.7}}},
            "version": version,
        }

    def rules(self, *, status, limit=500):
        by_hand = status == "active"
        return [
            {
                "keyword": "退款",
                "intent": "售后 > 退款",
                "source": "manual" if by_hand else "mined",
                "usage_count": 9,
                "judged_count": 4,
                "success_count": 3,
            }
        ][:limit]


def test_what_rules_did_is_told_in_words():
    without = Tally(asked=10, correct=4, methods=Counter({"keyword_fallback": 5, "none": 5}))
    rows = [row(NO_MODEL, "served", without), row("v1")]
    lines = "\n".join(story(account(rows, labels=200, client=Told("http://127.0.0.1:1"))))
    assert "Before the first version rules answered 5 of 10 questions, 80% of those rightly." in lines
    assert "1 rules by hand and 0 mined ones serve, 1 wait for a person. They matched 9 times; of 4" in lines
    assert "75% agreed" in lines
    assert "0.700 by the model alone, 0.800 with the rules" in lines
    assert "退款 → 退款 (9×, manual)" in lines


def test_the_account_is_of_versions_that_served():
    rows = [row(NO_MODEL, "served"), row("v1", "served"), row("v2", "refused", Tally()), row("v3")]
    told = account(rows, labels=200, client=Told("http://127.0.0.1:1"))
    assert (told.first.version, told.last.version) == ("v1", "v3")
    assert (told.versions, told.refused, told.asked) == (3, 1, 600)


def test_an_account_without_any_version_is_told_too():
    told = account([row(NO_MODEL, "waiting", Tally())], labels=0, client=Client("http://127.0.0.1:1"))
    assert story(told)[0].startswith("0 versions were trained")


def test_an_interval_needs_a_value():
    assert interval({"value": 0.5, "low": 0.4, "high": 0.6}) == Interval(0.5, 0.4, 0.6)
    assert interval({"value": 0.5, "low": None, "high": None}) == Interval(0.5, 0.5, 0.5)
    assert interval({"value": None}) is None
    assert interval(None) is None


def test_addresses_are_whole():
    assert all("http://127.0.0.1:8001/" in line for line in addresses("http://127.0.0.1:8001"))
