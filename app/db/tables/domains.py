"""A domain: one taxonomy with its own questions, models and thresholds, and the pointer to what it serves."""

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Base, Created, table_options
from app.db.types import HashText, Id, Json


class Domain(Created, Base):
    """One row per domain. `active_version_id` and `epoch` are the truth about what is served."""

    __tablename__ = "intent_domains"
    __table_args__ = table_options(
        CheckConstraint("task IN ('single_label', 'multi_label')", name="task"),
        CheckConstraint("gate IN ('auto', 'manual')", name="gate"),
        CheckConstraint("epoch >= 0", name="epoch"),
        CheckConstraint("rule_policy IN ('auto', 'manual')", name="rule_policy"),
        CheckConstraint("threshold_policy IN ('sweep', 'risk')", name="threshold_policy"),
        CheckConstraint("overlap >= 1 AND overlap <= 9", name="overlap"),
        CheckConstraint("overlap_share >= 0 AND overlap_share <= 1", name="overlap_share"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    task: Mapped[str] = mapped_column(String(16), default="single_label")
    # False: only a keyed hash of each text is kept, and its label.
    keep_text: Mapped[bool] = mapped_column(default=True)
    gate: Mapped[str] = mapped_column(String(16), default="auto")
    recipe: Mapped[str] = mapped_column(String(32), default="ngram")
    # Name or folder of the pretrained model that recipes with an encoder start from.
    base_model: Mapped[str | None] = mapped_column(String(255))
    # How τ is chosen; the server's default serves code that does not know the column yet.
    threshold_policy: Mapped[str] = mapped_column(String(16), default="sweep", server_default="sweep")
    taxonomy_version: Mapped[int] = mapped_column(default=0)
    taxonomy_digest: Mapped[str | None] = mapped_column(HashText)
    # No foreign key: versions refer to domains, and a circle of keys cannot be created or dropped on SQLite.
    active_version_id: Mapped[int | None] = mapped_column(BigInteger)
    # The version that is asked again about what the active one is unsure of. No foreign key, as above.
    generative_version_id: Mapped[int | None] = mapped_column(BigInteger)
    # Grows by one with every flip; a flip names the epoch it saw, so of two at once one fails.
    epoch: Mapped[int] = mapped_column(default=0)
    batch_seq: Mapped[int] = mapped_column(default=0)
    version_seq: Mapped[int] = mapped_column(default=0)
    rule_seq: Mapped[int] = mapped_column(default=0)
    # The active rules are others than those that serve: the clock proves them and flips.
    rules_due: Mapped[bool] = mapped_column(default=False)
    # Whether mined rules with enough evidence become active by themselves, or a person decides about each.
    rule_policy: Mapped[str] = mapped_column(String(16), default="auto")
    # Shares of each selection by strategy; null: the default mix.
    selection_mix: Mapped[dict[str, float] | None] = mapped_column(Json)
    # Pairs of labels that are mistaken for each other, beside those that gold confuses: [[path, path], …].
    confusion_pairs: Mapped[list[list[str]] | None] = mapped_column(Json)
    # When texts were chosen last, by which version, how many by which strategy, and what it was chosen from: without
    # a difference there is nothing to choose anew.
    last_selection: Mapped[dict[str, Any] | None] = mapped_column(Json)
    # How many people answer a text without sight of each other, and of which share of the texts; 1: one person each.
    overlap: Mapped[int] = mapped_column(default=1, server_default="1")
    overlap_share: Mapped[float] = mapped_column(default=1.0, server_default="1")
    # Words of this domain that the cutter must not cut.
    dictionary: Mapped[list[str] | None] = mapped_column(Json)
