"""The spool: what it was given comes back in order, whatever ended the process; and it stays within its bounds."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import SpoolFull
from app.intent.questions import AskedQuestion
from app.serving import spool as spooling
from app.serving.frames import HEADER, MARK, decoded, encoded, scan
from app.serving.spool import Spool, size_of, waiting
from tests.serving.spooling import question

ROOM = 1 << 20


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = opened(tmp_path)
    yield made
    made.close()


def opened(folder: Path, *, max_bytes: int = ROOM, max_rows: int = 1000) -> Spool:
    return Spool(folder / "spool", max_bytes=max_bytes, max_rows=max_rows)


def abandon(spool: Spool) -> None:
    """What the kernel does to a killed process: the lock goes, the files stay."""
    os.close(spool._own._lock_file)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("spool/*/*.frames"))


def drained(spool: Spool, most: int = 7) -> list[AskedQuestion]:
    found: list[AskedQuestion] = []
    while taken := spool.peek(most):
        found += taken
        spool.drop(len(taken))
    return found


def test_a_question_comes_back_as_it_was(spool: Spool) -> None:
    given = [question(1), question(2, text=None, request_id=None, confidence=None, latency_ms=None)]
    spool.append(given)
    assert drained(spool) == given
    assert decoded(encoded(given[0])) == given[0]


def test_what_waits_comes_in_order_over_many_segments_and_leaves_no_file(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooling, "SEGMENT_BYTES", 2000)
    given = [question(number) for number in range(40)]
    for start in range(0, 40, 5):
        spool.append(given[start : start + 5])
    assert len(segments(tmp_path)) > 5
    assert (spool.rows, waiting(tmp_path / "spool")) == (40, 40)
    assert drained(spool) == given
    assert segments(tmp_path) == []
    assert (spool.rows, spool.bytes) == (0, 0)


def test_what_comes_while_it_is_handed_on_comes_after(spool: Spool) -> None:
    given = [question(number) for number in range(6)]
    spool.append(given[:3])
    assert spool.peek(2) == given[:2]
    spool.append(given[3:])
    spool.drop(2)
    assert drained(spool) == given[2:]


def test_what_was_peeked_and_not_dropped_comes_again_after_a_crash(tmp_path: Path) -> None:
    first = opened(tmp_path)
    given = [question(number) for number in range(5)]
    first.append(given)
    first.peek(3)
    first.drop(3)
    abandon(first)
    second = opened(tmp_path)
    assert second.adopt() == 5
    # Those that were dropped, too: they are rows by now, and rows know their ids.
    assert drained(second) == given
    second.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_living_process_keeps_its_own(spool: Spool, tmp_path: Path) -> None:
    spool.append([question()])
    other = opened(tmp_path)
    assert other.adopt() == 0
    assert other.rows == 0
    other.close()
    assert spool.rows == 1


def test_dead_spools_come_before_ones_own_and_the_oldest_first(tmp_path: Path) -> None:
    for number in (1, 2):
        dead = opened(tmp_path)
        dead.append([question(number)])
        abandon(dead)
    living = opened(tmp_path)
    living.append([question(3)])
    assert living.adopt() == 2
    assert living.rows == 3
    found = living.find((1, "r2"))
    assert found is not None
    assert found.request_id == "r2"
    assert [one.request_id for one in drained(living)] == ["r1", "r2", "r3"]
    living.close()


@pytest.mark.parametrize("cut", [1, HEADER.size - 1, HEADER.size, HEADER.size + 1, 100])
def test_a_torn_last_frame_is_cut_and_counted(tmp_path: Path, cut: int) -> None:
    dead = opened(tmp_path)
    dead.append([question(1), question(2)])
    abandon(dead)
    [segment] = segments(tmp_path)
    whole = segment.read_bytes()
    torn = encoded(question(3))
    with segment.open("ab") as file:
        file.write((HEADER.pack(MARK, len(torn), 0) + torn)[:cut])
    living = opened(tmp_path)
    assert living.adopt() == 2
    assert living.torn == 1
    assert segment.read_bytes() == whole
    assert [one.request_id for one in drained(living)] == ["r1", "r2"]
    assert living.torn == 1
    living.close()


def test_a_frame_whose_bytes_changed_is_not_handed_on_and_its_file_is_kept(tmp_path: Path) -> None:
    dead = opened(tmp_path)
    dead.append([question(1), question(2), question(3)])
    abandon(dead)
    [segment] = segments(tmp_path)
    data = bytearray(segment.read_bytes())
    data[scan(bytes(data)).frames[1][0] + 50] ^= 1
    segment.write_bytes(data)
    living = opened(tmp_path)
    assert living.adopt() == 2
    assert [one.request_id for one in drained(living)] == ["r1", "r3"]
    living.close()
    assert [path.name for path in (tmp_path / "spool").glob("*/*.damaged")] == ["00000001.damaged"]


def test_a_whole_frame_that_is_no_question_stops_nothing_and_is_kept(spool: Spool, tmp_path: Path) -> None:
    spool._own.append([encoded(question(1)), b'{"of": "another release"}', b"[]", encoded(question(2))])
    assert [one.request_id for one in drained(spool)] == ["r1", "r2"]
    assert spool.rows == 0
    assert len(list((tmp_path / "spool").glob("*/*.damaged"))) == 1


def test_a_frame_with_a_field_that_nobody_knows_any_more_is_read(spool: Spool) -> None:
    spool._own.append([encoded(question(1)).replace(b'{"domain_id"', b'{"colour":"red","domain_id"')])
    assert drained(spool)[0].request_id == "r1"


def test_nothing_beyond_the_bounds_is_kept_and_what_is_there_stays(tmp_path: Path) -> None:
    size = len(encoded(question(1))) + HEADER.size
    by_bytes = opened(tmp_path / "a", max_bytes=3 * size + 10)
    by_bytes.append([question(1), question(2)])
    with pytest.raises(SpoolFull):
        by_bytes.append([question(3), question(4)])
    by_bytes.append([question(3)])
    assert [one.request_id for one in drained(by_bytes)] == ["r1", "r2", "r3"]
    by_bytes.append([question(4)])
    by_bytes.close()
    by_rows = opened(tmp_path / "b", max_rows=2)
    by_rows.append([question(1), question(2)])
    assert by_rows.is_full
    with pytest.raises(SpoolFull):
        by_rows.append([question(3)])
    assert by_rows.rows == 2
    by_rows.close()


def test_the_bound_is_of_the_machine_and_counts_what_others_left(tmp_path: Path) -> None:
    size = len(encoded(question(1))) + HEADER.size
    dead = opened(tmp_path)
    dead.append([question(1), question(2)])
    abandon(dead)
    living = opened(tmp_path, max_bytes=2 * size + 10)
    with pytest.raises(SpoolFull):
        living.append([question(3)])
    assert size_of(tmp_path / "spool") == living.bytes == 2 * size
    living.close()


def test_a_full_disk_keeps_nothing_of_the_list_and_all_from_before(tmp_path: Path) -> None:
    """The kernel's limit on file sizes stands for the disk: it, too, takes half of a write and refuses the rest."""
    code = """
import resource, signal, sys
from pathlib import Path
from app.errors import SpoolFull
from app.serving.spool import Spool
from tests.serving.spooling import question
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
spool = Spool(Path(sys.argv[1]), max_bytes=1 << 30, max_rows=10 ** 6)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
kept = 0
try:
    while True:
        spool.append([question(kept), question(kept + 1)])
        kept += 2
except SpoolFull:
    pass
assert kept
assert not spool.has_room()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert spool.has_room()
spool.append([question(kept)])
print(kept + 1, flush=True)
"""
    root = tmp_path / "spool"
    ran = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    living = opened(tmp_path)
    assert living.adopt() == int(ran.stdout)
    assert living.torn == 0
    assert [one.request_id for one in drained(living)] == [f"r{number}" for number in range(int(ran.stdout))]
    living.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_failed_flush_leaves_nothing_of_its_list(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append([question(1)])

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with pytest.raises(SpoolFull):
            spool.append([question(2)])
    spool.append([question(3)])
    assert [one.request_id for one in drained(spool)] == ["r1", "r3"]


def test_every_list_is_flushed_before_it_counts(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    flush = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (flushed.append(os.fstat(file).st_size), flush(file)))
    spool.append([question(1)])
    spool.append([question(2)])
    assert len(flushed) == 2
    assert flushed[1] == spool.bytes


def test_a_request_id_is_found_again_while_it_waits(spool: Spool) -> None:
    given = question(1)
    spool.append([question(0), given])
    assert spool.find((1, "r1")) == given
    assert spool.find((2, "r1")) is None
    drained(spool)
    assert spool.find((1, "r1")) is None


def test_nobody_else_may_read_it(spool: Spool, tmp_path: Path) -> None:
    spool.append([question()])
    assert {path.stat().st_mode & 0o777 for path in segments(tmp_path)} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "spool").iterdir()} == {0o700}
