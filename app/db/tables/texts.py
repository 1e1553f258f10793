"""A text: the unit that is queued, leased, labelled, split and counted; many questions share one."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json, LabelText, LongText, UtcDateTime, UuidText


class Text(Created, Base):
    """One distinct text of a domain.

    `state` says whether a person still has to look; `training_status` whether training may, will or did take it.
    """

    __tablename__ = "intent_texts"
    __table_args__ = table_options(
        UniqueConstraint("domain_id", "text_hash"),
        # Read backwards for "the next ones by priority"; a null priority is not in the queue. With the id, by which
        # equals are ordered: PostgreSQL would otherwise sort all of them.
        Index(None, "domain_id", "state", "priority", "id"),
        Index(None, "domain_id", "state", "text_hash"),
        # Gold that is labelled, that waits, and that may be drawn.
        Index(None, "domain_id", "is_gold", "state", "priority"),
        # Which label has waited longest for a batch.
        Index(None, "domain_id", "state", "training_status", "labelled_at"),
        Index(None, "domain_id", "proposed_label"),
        # The members of a group of near twins, of a proposed scenario, and the labels that look most wrong.
        Index(None, "domain_id", "group_hash"),
        Index(None, "scenario_id"),
        Index(None, "domain_id", "suspicion"),
        Index(None, "domain_id", "is_flagged"),
        CheckConstraint("state IN ('unlabelled', 'labelled', 'skipped', 'discarded', 'disputed')", name="state"),
        CheckConstraint("training_status IN ('pending', 'claimed', 'used', 'skipped')", name="training_status"),
        CheckConstraint("(state = 'labelled') = (label_id IS NOT NULL)", name="label"),
        CheckConstraint("count >= 0", name="count"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    domain_id: Mapped[int] = mapped_column(ForeignKey("intent_domains.id"))
    text_hash: Mapped[str] = mapped_column(HashText)
    # Near twins share the hash of their group; alone, a text is its own group.
    group_hash: Mapped[str] = mapped_column(HashText)
    text: Mapped[str | None] = mapped_column(LongText)
    question_id: Mapped[str | None] = mapped_column(UuidText)
    count: Mapped[int] = mapped_column(default=0)
    first_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_asked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    train_allowed: Mapped[bool] = mapped_column(default=True)

    # Held out for ever: never trained, mined, calibrated or thresholded on.
    is_gold: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16), default="unlabelled")
    priority: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(String(255))
    strategy: Mapped[str | None] = mapped_column(String(32))
    sampling_probability: Mapped[float | None]
    # While every slot is held; with a slot free it is null.
    leased_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Compared with the texts that are there for near twins; until the clock has done so a text is its own group.
    is_grouped: Mapped[bool] = mapped_column(default=False, server_default=false(), index=True)
    # A person asked that somebody look at it.
    is_flagged: Mapped[bool] = mapped_column(default=False, server_default=false())

    # The model's present answer, refreshed by select_questions; `scored_by` is the version that gave it.
    intents: Mapped[list[str]] = mapped_column(Json, default=list)
    confidence: Mapped[float | None]
    topk: Mapped[list[list[Any]]] = mapped_column(Json, default=list)
    scored_by: Mapped[str | None] = mapped_column(String(128))
    # The rules that matched it when it was asked last; since it is labelled, those that matched it before the label.
    rule_hits: Mapped[list[int] | None] = mapped_column(Json)

    label_id: Mapped[int | None] = mapped_column(ForeignKey("intent_labels.id"), type_=Id)
    annotation_id: Mapped[int | None] = mapped_column(Id)
    labelled_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    label_source: Mapped[str | None] = mapped_column(String(16))
    proposed_label: Mapped[str | None] = mapped_column(LabelText)
    # The proposed scenario that it is a member of. No foreign key: proposals go, texts stay.
    scenario_id: Mapped[int | None] = mapped_column(Id)
    # How wrong its label looks, in [0, 1], with the evidence; null where it does not, or a person has confirmed it.
    suspicion: Mapped[float | None]
    suspicion_evidence: Mapped[dict[str, Any] | None] = mapped_column(Json)
    # The annotation that a person has confirmed though it looked wrong: that one is not asked about again.
    confirmed_annotation_id: Mapped[int | None] = mapped_column(Id)
    training_status: Mapped[str] = mapped_column(String(16), default="pending")
    claimed_by: Mapped[int | None] = mapped_column(ForeignKey("intent_model_training_batches.id"), index=True, type_=Id)
    # More twins than one statement may touch: the clock brings them after.
    projection_due: Mapped[bool] = mapped_column(default=False, index=True)


class TextBand(Base):
    """One band of a text's MinHash signature: texts that share one may be near twins."""

    __tablename__ = "intent_text_bands"
    __table_args__ = table_options(Index(None, "text_id"))

    domain_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    # The number of the band and the hash of what is in it, in one signed 64-bit number.
    band: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    text_id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
