"""An installation with something in every table, people who go on working on it, and what must hold in any copy."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.session import UnitOfWork
from app.db.tables import (
    Annotation,
    ApiKey,
    Base,
    BatchItem,
    Counter,
    Domain,
    KeywordRule,
    Label,
    Lease,
    ModelActivation,
    ModelVersion,
    QuarantinedQuestion,
    RuleSet,
    Scenario,
    TaxonomyChange,
    Text,
    TextBand,
    Tombstone,
    UserQuestion,
    now,
)
from app.errors import IntentError
from app.scorers.artifact import verify
from app.services import activations, annotations, audit, batches, file_imports, queue, runs, undoing
from tests.builders import ask, domain_of, label, make_labelled_texts, make_version
from tests.serving.artifacts import Artifact

LABELS = ("退货 > 申请", "开不了机", 'It\'s "quoted" \\ 100%')


def fill(work: UnitOfWork, artifacts: Path, *made: Artifact) -> None:
    """Rows in every table, and versions with these artifacts, of which the last one serves."""
    questions = make_labelled_texts(work, dict.fromkeys(LABELS, 3), gold=1)
    ask(
        work,
        "第一次问 😀 ﷺ",
        "换行没有了",
        user_hash="a" * 64,
        verdicts=[{"tier": "rules", "score": 0.1}],
        confidence=0.25,
    )
    work(queue_for, "bo")
    work(annotations.skip, ask(work, "跳过这个")[0], labeler_id="ana", reason="看不懂")
    batch = work(batches.open_batch, "default", opened_by="ana")
    work(batches.run, batch.batch_id)
    work(runs.begin, "purge", datetime(2026, 3, 29, 1, 30, tzinfo=UTC), worker="w")
    for number, artifact in enumerate(made):
        artifact.installed_in(artifacts)

        def register(session: Session, number: int = number, artifact: Artifact = artifact) -> None:
            version = make_version(
                session,
                artifact_digest=artifact.digest,
                threshold=0.5 + number / 7,
                training_batch_id=batch.id,
                temperature=1 / 3,
            )
            activations.activate(session, version.version, by="ana", reason=f"Nr. {number}")

        work(register)
    work(_loose_rows, questions)
    work(_import_half)
    work(
        runs.report_replica,
        "host:1",
        role="service",
        domain_id=work.read(lambda session: domain_of(session).id),
        epoch=len(made),
    )


def _import_half(session: Session) -> None:
    place, so_far = file_imports.begin(session, "default", "e" * 64)
    so_far.refuse(3, "text is empty")
    file_imports.advance(session, place, 500, 2**33, so_far)


def queue_for(session: Session, labeler_id: str) -> list[queue.QueueItem]:
    """What a labeler is handed."""
    return queue.unlabelled(session, domain_of(session), limit=2, labeler_id=labeler_id)


def _loose_rows(session: Session, questions: list[str]) -> None:
    domain = domain_of(session)
    first = session.scalars(select(Label).order_by(Label.id).limit(1)).one()
    session.add(
        KeywordRule(
            domain_id=domain.id, keyword="é 退货", intent=first.path, label_id=first.id, all_of=["é", "退货"],
            status="active", precision=0.1 + 0.2, examples=questions[:3],
        )
    )  # fmt: skip
    session.add(
        TaxonomyChange(
            domain_id=domain.id, kind="rename", arguments={"labels": ["旧的"], "to": first.path}, touched={"texts": 3},
            before={"labels": {str(first.id): ["旧的", "active", 0, None]}}, taxonomy_version=1, made_by="ana",
        )
    )  # fmt: skip
    session.add(RuleSet(domain_id=domain.id, revision=1, digest="d" * 64, rules=[{"rule_id": 1, "pattern": "\\d+"}]))
    session.add(
        ApiKey(key_id="k1", secret_hash="e" * 64, name="shop", role="product", domains=["default"], created_by="ana",
               last_used_at=now())
    )  # fmt: skip
    session.add(Counter(domain_id=domain.id, day=date(2026, 2, 28), name="asked", key="退货 > 申请", value=2**40))
    session.add(
        QuarantinedQuestion(
            question_id="q", domain_id=domain.id, request_id="é", body_hash="f" * 64, asked_at=now(), reason="refused",
            frame={"text": "留下 😀"},
        )
    )  # fmt: skip
    some_text = session.scalars(select(Text.id).order_by(Text.id).limit(1)).one()
    session.add(TextBand(domain_id=domain.id, band=-(2**63), text_id=some_text))
    session.add(
        Scenario(domain_id=domain.id, text_count=5, question_count=12, keywords=["退运费", "é"], typical=[some_text])
    )
    session.add(Tombstone(kind="question", value="gone", created_by="ana"))
    audit.note(session, audit.COMMAND_LINE, "rule.create", "1", domain_id=domain.id, after={"keyword": "é"})
    session.flush()


@contextmanager
def busy(work: UnitOfWork, threads: int = 3) -> Iterator[None]:
    """People ask, label, skip, undo and flip for as long as the block runs; an error of theirs is the test's."""
    stop, errors = threading.Event(), list[BaseException]()
    acts: tuple[Callable[[UnitOfWork, random.Random, int], Any], ...] = (_ask_and_label, _ask_and_label, _flip)

    def run(number: int) -> None:
        rng = random.Random(number)
        try:
            for turn in itertools.count():
                if stop.is_set():
                    return
                acts[number % len(acts)](work, rng, turn)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join(60)
    assert not errors, errors


def _ask_and_label(work: UnitOfWork, rng: random.Random, turn: int) -> None:
    texts = [f"问题 {rng.randrange(40)}" for _ in range(rng.randint(1, 4))]
    for question_id in ask(work, *texts):
        try:
            if rng.random() < 0.7:
                label(work, question_id, rng.choice(LABELS), by=f"p{rng.randrange(3)}")
            else:
                work(undoing.undo, question_id, labeler_id="p1")
        except IntentError:
            pass  # another answered it


def _flip(work: UnitOfWork, rng: random.Random, turn: int) -> None:
    names = work.read(lambda session: list(session.scalars(select(ModelVersion.version))))
    work(activations.activate, rng.choice(names), by="p", reason=f"turn {turn}")


def check_invariants(work: UnitOfWork, artifacts: Path) -> None:
    """What holds between any two transactions: a copy in which it does not was not taken at one moment."""
    work.read(_check_invariants, artifacts)


def _check_invariants(session: Session, artifacts: Path) -> None:
    texts = {text.id: text for text in session.scalars(select(Text))}
    counts = dict(
        session.execute(
            select(UserQuestion.text_id, func.count())
            .where(UserQuestion.text_id.is_not(None))
            .group_by(UserQuestion.text_id)
        ).all()
    )
    assert {text.id: text.count for text in texts.values() if text.count} == counts
    answers = {annotation.id: annotation for annotation in session.scalars(select(Annotation))}
    for annotation in answers.values():
        assert annotation.text_id in texts
        assert annotation.supersedes_id is None or annotation.supersedes_id in answers
    for text in texts.values():
        if text.state == "labelled":
            assert answers[text.annotation_id].label_id == text.label_id
    for question in session.scalars(select(UserQuestion).where(UserQuestion.text_id.is_not(None))):
        assert question.is_labeled == (texts[question.text_id].state == "labelled")
    assert {item.text_id for item in session.scalars(select(BatchItem))} <= set(texts)
    assert {lease.text_id for lease in session.scalars(select(Lease))} <= set(texts)
    for domain in session.scalars(select(Domain)):
        epochs = session.scalars(select(ModelActivation.epoch).where(ModelActivation.domain_id == domain.id)).all()
        assert sorted(epochs) == list(range(1, domain.epoch + 1))
        version = session.get(ModelVersion, domain.active_version_id) if domain.active_version_id else None
        if version is not None:
            assert version.is_active
            verify(artifacts / version.artifact_digest, version.artifact_digest)


def content(work: UnitOfWork) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, in an order that no collation decides; numbers to six digits, paths left out."""
    left_out = {"model_path"}

    def read(session: Session) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: sorted(
                (
                    tuple(_rounded(value) for name, value in row.items() if name not in left_out)
                    for row in session.execute(select(table)).mappings()
                ),
                key=repr,
            )
            for table in Base.metadata.sorted_tables
        }

    return work.read(read)


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def days_ago(days: float) -> datetime:
    """A moment of the past."""
    return datetime.now(UTC) - timedelta(days=days)
