"""Question ids are UUIDs of version 7 that sort as they were made."""

import threading
import time
import uuid

from app.intent.questions import new_question_id


def test_ids_are_version_7_and_carry_the_moment_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_question_id())
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after + 1


def test_ids_of_one_process_sort_as_they_were_made_and_never_repeat() -> None:
    made = [new_question_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_threads_never_make_the_same_id() -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.extend([new_question_id() for _ in range(2_000)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000
