"""Questions a second that 100,000 keyword rules are matched against on one core, and the memory that they take.

Anchor: the plain way, `[rule for rule in rules if rule.word in text]`, over the very same rules and with the same
folding of each text beside it. Its time grows with rules times texts, so it is asked about a sample of the questions
and its rate is a figure of questions a second like ours. It is fair, even kind: it looks only at rules of one word, and
it does not ask whether an English word stands alone. Before any clock starts, the answers of both are compared on the
sample, with that question asked in addition.

A second anchor says what the right algorithm costs bare: a walk of pyahocorasick's automaton over the folded texts that
collects the numbers of the words found, without knowing what they decide. Ours cannot be faster than that.

Data: Chinese questions of smp2017-ecdt and titles of thucnews when the folder named by INTENTLOOP_BENCH_DATA (or
../shared/data) has them, otherwise the questions of the bundled sample domain. The rules: every sequence of two to six
characters of those texts as a word until there are nearly enough (so that texts are full of hits), then words drawn
from their characters; in 10 % a second word, in 5 % a word that must not be there; 100 patterns.

Five rounds, all after each other in each; medians over the rounds, in seconds of processor time: one thread works, and
what else the machine does is not its doing. Memory is what the process grows by while the set is
built, read from /proc, in a process of its own.
"""

from __future__ import annotations

import gc
import gzip
import json
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from app.intent.rule_matching import Matcher
from app.intent.rules import Rule, contains, rule_from_json, rule_word, searchable
from app.intent.text import MaskedText, normalise, text_key
from bench.result import Bar, CannotRun, Result

ROUNDS = 5
RULES = 100_000
PATTERNS = 100
LEAST_PER_SECOND = 20_000.0
_ROOT = Path(__file__).parent.parent


def run(*, quick: bool) -> Result:
    """Make the rules, compare answers, time all three, weigh the set."""
    texts = _texts()
    count = RULES // 10 if quick else RULES
    rules = make_rules(texts, count, random.Random(7))
    questions = random.Random(11).sample(texts, min(len(texts), 2_000 if quick else 20_000))
    frozen = json.dumps([rule.as_json() for rule in rules], ensure_ascii=False).encode()
    start = time.process_time()
    matcher = Matcher(rules)
    built = time.process_time() - start
    plain = [rule for rule in rules if not rule.pattern and not rule.none_of and len(rule.all_of) == 1]
    sample = questions[:: max(1, len(questions) // 20)][:20]
    _compare(rules, plain, sample, matcher)
    rates: dict[str, list[float]] = {"ours": [], "plain loop": [], "bare automaton": []}
    bare = _bare(rules)
    for _ in range(ROUNDS):
        rates["plain loop"].append(_rate(lambda text: _plain_loop(plain, text), sample))
        rates["bare automaton"].append(_rate(bare, questions))
        rates["ours"].append(_rate(matcher.matched, questions))
    for name, values in rates.items():
        print(f"{name:>14}: {statistics.median(values):10.0f} questions/s ({min(values):.0f} … {max(values):.0f})")
    ours, loop = statistics.median(rates["ours"]), statistics.median(rates["plain loop"])
    hits = statistics.fmean(len(matcher.matched(text)) for text in questions)
    grown = _grown(frozen)
    return Result(
        figures={
            "rules": len(rules),
            "questions": len(questions),
            "characters_per_question": round(statistics.fmean(map(len, questions)), 1),
            "rules_matched_per_question": round(hits, 2),
            "questions_per_second": round(ours),
            "plain_loop_questions_per_second": round(loop, 2),
            "bare_automaton_questions_per_second": round(statistics.median(rates["bare automaton"])),
            "seconds_to_build": round(built, 3),
            "frozen_megabytes": round(len(frozen) / 1e6, 2),
            "bytes_per_rule": round(grown["set"] / len(rules)),
            "bytes_per_rule_of_matcher": round(grown["matcher"] / len(rules)),
            "times_the_plain_loop": round(ours / loop),
        },
        bars={"questions_per_second": Bar(round(ours), at_least=LEAST_PER_SECOND)},
    )


def make_rules(texts: Sequence[str], count: int, rng: random.Random) -> list[Rule]:
    """So many rules with distinct words that these texts are full of."""
    words = dict.fromkeys(_sequences(texts, rng, count * 3 // 4))
    characters = [character for text in texts for character in text if character.isalnum()]
    while len(words) < count:
        words.setdefault(rule_word("".join(rng.choices(characters, k=rng.randint(2, 6)))))
    listed = list(words)[:count]
    rng.shuffle(listed)
    rules = []
    for number, word in enumerate(listed, 1):
        drawn = rng.random()
        second = (rng.choice(listed),) if drawn < 0.10 else ()
        banned = (rng.choice(listed),) if 0.10 <= drawn < 0.15 else ()
        rules.append(Rule(number, number % 150, (word, *second), banned, precision=0.9))
    for number in range(PATTERNS):
        a, b = (word for word in rng.sample(listed, 2))
        rules[number] = Rule(number + 1, number % 150, (), pattern=f"{_escaped(a)}.{{0,10}}{_escaped(b)}")
    return rules


def _sequences(texts: Sequence[str], rng: random.Random, most: int) -> Iterator[str]:
    given = 0
    for text in rng.sample(texts, len(texts)):
        folded = searchable(text)
        for length in range(2, 7):
            start = rng.randrange(max(1, len(folded) - length))
            word = folded[start : start + length].strip()
            if len(word) >= 2 and given < most:
                given += 1
                yield word


def _escaped(word: str) -> str:
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):x}}}" for character in word)


def _plain_loop(rules: Sequence[Rule], text: str) -> list[Rule]:
    folded = text_key(MaskedText(text))
    return [rule for rule in rules if rule.all_of[0] in folded]


def _bare(rules: Sequence[Rule]) -> Callable[[str], object]:
    import ahocorasick

    automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
    for number, word in enumerate({word for rule in rules for word in (*rule.all_of, *rule.none_of)}):
        automaton.add_word(word, number)
    automaton.make_automaton()
    return lambda text: {number for _, number in automaton.iter(text_key(MaskedText(text)))}


def _compare(rules: Sequence[Rule], plain: Sequence[Rule], sample: Sequence[str], matcher: Matcher) -> None:
    """Both ways must give the same rules of one word, and the loop over all must give the rest."""
    simple = {rule.rule_id for rule in plain}
    for text in sample:
        folded = searchable(text)
        loop = {rule.rule_id for rule in _plain_loop(plain, text) if contains(folded, rule.all_of[0])}
        answer = {rule.rule_id for rule in matcher.matched(text)}
        lists = {
            rule.rule_id
            for rule in rules
            if rule.pattern is None
            and all(contains(folded, word) for word in rule.all_of)
            and not any(contains(folded, word) for word in rule.none_of)
        }
        if loop != answer & simple or lists != {n for n in answer if rules[n - 1].pattern is None}:
            raise CannotRun("the anchor's answers differ: it does not match the same rules")


def _rate(match: Callable[[str], object], questions: Sequence[str]) -> float:
    start = time.process_time()
    for question in questions:
        match(question)
    return len(questions) / (time.process_time() - start)


def _grown(frozen: bytes) -> dict[str, int]:
    """Bytes that a fresh process grows by when it reads this set: with its rules, and by the matcher alone."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_weigh, args=(frozen, theirs))
    process.start()
    theirs.close()
    try:
        grown: dict[str, int] = ours.recv()
    except EOFError as error:
        raise CannotRun("the process that weighs the set died") from error
    finally:
        process.join()
    return grown


def _weigh(frozen: bytes, answer: Any) -> None:
    Matcher([])
    values = json.loads(frozen)
    gc.collect()
    before = _resident()
    rules = [rule_from_json(one) for one in values]
    gc.collect()
    between = _resident()
    matcher = Matcher(rules)
    gc.collect()
    after = _resident()
    answer.send({"set": after - before, "matcher": after - between, "rules": len(matcher)})


def _resident() -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError as error:
        raise CannotRun("memory is read from /proc/self/statm, which this system does not have") from error
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _texts() -> list[str]:
    """Distinct texts, normalised as the service would."""
    folder = Path(os.environ.get("INTENTLOOP_BENCH_DATA", _ROOT.parent / "shared" / "data"))
    found = [
        path for name in ("smp2017-ecdt", "thucnews-titles") for path in sorted((folder / name).glob("*.jsonl.gz"))
    ]
    sample = _ROOT / "app" / "sample" / "questions.jsonl"
    print(f"data: {', '.join(f'{path.parent.name}/{path.name}' for path in found) or 'the bundled sample domain'}")
    texts = [row["text"] for path in found or [sample] for row in _rows(path)]
    return list(dict.fromkeys(normalise(text) for text in texts))


def _rows(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8").splitlines()
    return [json.loads(line) for line in lines]
