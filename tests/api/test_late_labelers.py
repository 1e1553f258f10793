"""Labelers as processes of their own: one who is stopped past the lease, and a dozen who misbehave all at once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from app.db.session import UnitOfWork, connect
from tests.api.conftest import LOOP, process
from tests.builders import ask, set_taxonomy, trainable_text
from tests.torture.labelers import crowd

# Takes one text, and answers it as soon as it may go on.
LABELER = f"""
import sys, httpx
http = httpx.Client(base_url=sys.argv[1], timeout=30, trust_env=False)
asked = http.get("{LOOP}/questions/unlabeled", params={{"labeler_id": "ana", "limit": 1, "lease_seconds": 1}})
[item] = asked.json()["items"]
print(item["question_id"], flush=True)
sys.stdin.readline()
answer = http.post("{LOOP}/questions/" + item["question_id"] + "/label", json={{
    "correct_intent": ["甲"], "labeler_id": "ana", "lease_token": item["lease_token"]}})
print(answer.status_code, answer.json()["code"], flush=True)
"""


def test_a_labeler_who_was_stopped_past_the_lease_changes_nothing(database_url: str, tmp_path: Path) -> None:
    engine = connect(database_url)
    work = UnitOfWork(engine)
    set_taxonomy(work, ["甲", "乙"])
    ask(work, trainable_text("甲"))
    with process(database_url, tmp_path) as service:
        late = subprocess.Popen(
            [sys.executable, "-c", LABELER, str(service.http.base_url)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert late.stdin is not None
            assert late.stdout is not None
            question = late.stdout.readline().strip()
            late.send_signal(signal.SIGSTOP)
            late.stdin.write("go on\n")
            late.stdin.flush()
            path, mine = f"{LOOP}/questions/{question}", {"labeler_id": "bo", "limit": 1}
            deadline = time.monotonic() + 20
            while not (items := service.http.get(f"{LOOP}/questions/unlabeled", params=mine).json()["items"]):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            answer = {"correct_intent": ["乙"], "labeler_id": "bo", "lease_token": items[0]["lease_token"]}
            assert service.http.post(f"{path}/label", json=answer).status_code == 200
            # Even after bo's answer is gone again, ana's lease is.
            service.http.delete(f"{path}/label", params={"labeler_id": "bo"}).raise_for_status()
            late.send_signal(signal.SIGCONT)
            assert late.communicate(timeout=30)[0].split() == ["409", "lease_lost"]
            assert service.http.get(path).json()["is_labeled"] is False
        finally:
            late.kill()
            late.wait()
    engine.dispose()


def test_labelers_who_misbehave_lose_nothing_and_are_given_nothing_twice(database_url: str, tmp_path: Path) -> None:
    found = crowd(database_url, tmp_path, overlap=2, labelers=8, texts=24, seed=1, lease_seconds=2)
    wrong = ("doubled", "lost", "stray", "late", "unforeseen", "too_many", "waiting", "counters_wrong")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
    assert found["labelled"] + found["disputed"] == 24
    assert found["answers"] >= 40
    assert found["refused"] > 0
