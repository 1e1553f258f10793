"""Quarantine for what could not be logged after an outage, how far imports have come, the indexes of a million texts.

Revision: 2026_11_25_serving, after 2026_11_25_rules_keys_figures

Expand only: the code that runs knows nothing of the new tables and needs nothing of them, and the new indexes begin
with the columns of those that go.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.db.types import HashText, Id, Json, UtcDateTime, UuidText

revision = "2026_11_25_serving"
down_revision = "2026_11_25_rules_keys_figures"
branch_labels = None
depends_on = None

# Binary comparison: with MySQL's default collation "é" and "e" would be one unique key.
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


def upgrade() -> None:
    op.create_table(
        "intent_quarantined_questions",
        sa.Column("question_id", UuidText, nullable=False),
        sa.Column("domain_id", Id, nullable=True),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("body_hash", HashText, nullable=False),
        sa.Column("user_hash", HashText, nullable=True),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("frame", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("question_id", name=op.f("pk_intent_quarantined_questions")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_quarantined_questions_user_hash"), "intent_quarantined_questions", ["user_hash"])
    op.create_index(op.f("ix_intent_quarantined_questions_asked_at"), "intent_quarantined_questions", ["asked_at"])
    op.create_table(
        "intent_file_imports",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("key", HashText, nullable=False),
        sa.Column("rows_done", sa.Integer(), nullable=False),
        sa.Column("counts", Json, nullable=False),
        sa.Column("refused", Json, nullable=False),
        sa.Column("report_bytes", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_file_imports_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_file_imports")),
        sa.UniqueConstraint("domain_id", "key", name=op.f("uq_intent_file_imports_domain_id_key")),
        **OPTIONS,
    )
    # The new ones first: MySQL keeps an index that begins with the column of a foreign key.
    op.create_index(
        op.f("ix_intent_texts_domain_id_state_priority_id"), "intent_texts", ["domain_id", "state", "priority", "id"]
    )
    op.create_index(
        op.f("ix_intent_texts_domain_id_is_gold_state_priority"),
        "intent_texts",
        ["domain_id", "is_gold", "state", "priority"],
    )
    op.drop_index(op.f("ix_intent_texts_domain_id_state_priority"), "intent_texts")
    op.drop_index(op.f("ix_intent_texts_domain_id_training_status_is_gold"), "intent_texts")


def downgrade() -> None:
    op.create_index(
        op.f("ix_intent_texts_domain_id_training_status_is_gold"),
        "intent_texts",
        ["domain_id", "training_status", "is_gold"],
    )
    op.create_index(
        op.f("ix_intent_texts_domain_id_state_priority"), "intent_texts", ["domain_id", "state", "priority"]
    )
    op.drop_index(op.f("ix_intent_texts_domain_id_is_gold_state_priority"), "intent_texts")
    op.drop_index(op.f("ix_intent_texts_domain_id_state_priority_id"), "intent_texts")
    op.drop_table("intent_quarantined_questions")
    op.drop_table("intent_file_imports")
