"""Rules and their sets, keys, the audit trail, tombstones, counters.

Revision: 2026_11_25_rules_keys_figures, after 2026_11_22_the_loop

Expand, backfill in slices, contract in a later release: each statement must work beside the code that runs.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.db.types import HashText, Id, Json, UtcDateTime

revision = "2026_11_25_rules_keys_figures"
down_revision = "2026_11_22_the_loop"
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
        "intent_api_keys",
        sa.Column("id", Id, nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("secret_hash", HashText, nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("domains", Json, nullable=True),
        sa.Column("labeler_id", sa.String(length=128), nullable=True),
        sa.Column("rate_per_minute", sa.Integer(), nullable=True),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("last_used_at", UtcDateTime(), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=True),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("role IN ('product', 'labeler', 'admin')", name=op.f("ck_intent_api_keys_role")),
        sa.CheckConstraint("rate_per_minute > 0", name=op.f("ck_intent_api_keys_rate_per_minute")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_api_keys")),
        sa.UniqueConstraint("key_id", name=op.f("uq_intent_api_keys_key_id")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_intent_api_keys_secret_hash")),
        **OPTIONS,
    )
    op.create_table(
        "intent_audit_events",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=True),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("key_id", sa.String(length=16), nullable=True),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("before", Json, nullable=True),
        sa.Column("after", Json, nullable=True),
        sa.Column("trace_id", sa.String(length=64), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("chain_hash", HashText, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_audit_events")),
        sa.UniqueConstraint("sequence", name=op.f("uq_intent_audit_events_sequence")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_audit_events_domain_id_id"), "intent_audit_events", ["domain_id", "id"])

    op.create_table(
        "intent_counters",
        sa.Column("domain_id", Id, autoincrement=False, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("domain_id", "day", "name", "key", name=op.f("pk_intent_counters")),
        **OPTIONS,
    )
    op.create_table(
        "intent_tombstones",
        sa.Column("id", Id, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("value", sa.String(length=128), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('user', 'question', 'before')", name=op.f("ck_intent_tombstones_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_tombstones")),
        sa.UniqueConstraint("kind", "value", name=op.f("uq_intent_tombstones_kind_value")),
        **OPTIONS,
    )
    op.create_table(
        "intent_rule_sets",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("digest", HashText, nullable=False),
        sa.Column("rules", Json, nullable=False),
        sa.Column("rule_count", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("evaluation", Json, nullable=True),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "status IN ('frozen', 'passed', 'refused', 'rolled_back')", name=op.f("ck_intent_rule_sets_status")
        ),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_rule_sets_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_rule_sets")),
        sa.UniqueConstraint("domain_id", "revision", name=op.f("uq_intent_rule_sets_domain_id_revision")),
        **OPTIONS,
    )
    with op.batch_alter_table("intent_domains") as batch_op:
        batch_op.add_column(sa.Column("rule_seq", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("rules_due", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("rule_policy", sa.String(length=16), nullable=False, server_default="auto"))
        batch_op.add_column(sa.Column("dictionary", Json, nullable=True))
        batch_op.create_check_constraint(
            batch_op.f("ck_intent_domains_rule_policy"), "rule_policy IN ('auto', 'manual')"
        )

    with op.batch_alter_table("intent_keyword_rules") as batch_op:
        batch_op.add_column(sa.Column("label_id", Id, nullable=True))
        batch_op.add_column(sa.Column("all_of", Json, nullable=True))
        batch_op.add_column(sa.Column("none_of", Json, nullable=True))
        batch_op.add_column(sa.Column("pattern", sa.String(length=500), nullable=True))
        batch_op.add_column(sa.Column("judged_count", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("coverage", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("log_odds", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("examples", Json, nullable=True))
        batch_op.add_column(sa.Column("reason", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("created_by", sa.String(length=128), nullable=False, server_default="clock"))
        batch_op.add_column(sa.Column("updated_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("activated_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("retired_at", UtcDateTime(), nullable=True))
        batch_op.alter_column(
            "keyword", existing_type=sa.String(length=128), type_=sa.String(length=255), existing_nullable=False
        )
        batch_op.create_index(
            batch_op.f("ix_intent_keyword_rules_domain_id_status"), ["domain_id", "status"], unique=False
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_intent_keyword_rules_label_id"), "intent_labels", ["label_id"], ["id"]
        )
        batch_op.create_check_constraint(
            batch_op.f("ck_intent_keyword_rules_label"), "status <> 'active' OR label_id IS NOT NULL"
        )

    with op.batch_alter_table("intent_model_activations") as batch_op:
        batch_op.alter_column("version_id", existing_type=Id, nullable=True)
        batch_op.drop_constraint(batch_op.f("ck_intent_model_activations_kind"), type_="check")
        batch_op.create_check_constraint(
            batch_op.f("ck_intent_model_activations_kind"), "kind IN ('activate', 'rules', 'rollback')"
        )

    with op.batch_alter_table("intent_model_versions") as batch_op:
        batch_op.add_column(sa.Column("rule_set_revision", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("fusion", Json, nullable=True))

    with op.batch_alter_table("intent_texts") as batch_op:
        batch_op.add_column(sa.Column("rule_hits", Json, nullable=True))
    op.create_index(
        op.f("ix_intent_texts_domain_id_state_training_status_labelled_at"),
        "intent_texts",
        ["domain_id", "state", "training_status", "labelled_at"],
    )

    with op.batch_alter_table("intent_annotations") as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_intent_annotations_domain_id"), type_="foreignkey")
        batch_op.add_column(sa.Column("answered_by", sa.String(length=128), nullable=True))
        batch_op.add_column(sa.Column("agreed", sa.Boolean(), nullable=True))

    op.create_index(op.f("ix_intent_user_questions_user_hash"), "intent_user_questions", ["user_hash"])


def downgrade() -> None:
    op.drop_index(op.f("ix_intent_user_questions_user_hash"), "intent_user_questions")

    with op.batch_alter_table("intent_annotations") as batch_op:
        batch_op.create_foreign_key(
            batch_op.f("fk_intent_annotations_domain_id"), "intent_domains", ["domain_id"], ["id"]
        )
        batch_op.drop_column("agreed")
        batch_op.drop_column("answered_by")

    # Made first: MySQL keeps an index that begins with the column of a foreign key.
    op.drop_index(op.f("ix_intent_texts_domain_id_state_training_status_labelled_at"), "intent_texts")
    with op.batch_alter_table("intent_texts") as batch_op:
        batch_op.drop_column("rule_hits")

    with op.batch_alter_table("intent_model_versions") as batch_op:
        batch_op.drop_column("fusion")
        batch_op.drop_column("rule_set_revision")

    # Flips of rules mean nothing to the release before: it would take their version for the one before the current one.
    op.execute("DELETE FROM intent_model_activations WHERE version_id IS NULL")
    op.execute("UPDATE intent_model_activations SET kind = 'activate' WHERE kind = 'rules'")
    with op.batch_alter_table("intent_model_activations") as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_intent_model_activations_kind"), type_="check")
        batch_op.create_check_constraint(
            batch_op.f("ck_intent_model_activations_kind"), "kind IN ('activate', 'rollback')"
        )
        batch_op.alter_column("version_id", existing_type=Id, nullable=False)

    with op.batch_alter_table("intent_keyword_rules") as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_intent_keyword_rules_label_id"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("ck_intent_keyword_rules_label"), type_="check")
        batch_op.drop_index(batch_op.f("ix_intent_keyword_rules_domain_id_status"))
        batch_op.alter_column(
            "keyword", existing_type=sa.String(length=255), type_=sa.String(length=128), existing_nullable=False
        )
        batch_op.drop_column("retired_at")
        batch_op.drop_column("activated_at")
        batch_op.drop_column("updated_at")
        batch_op.drop_column("created_by")
        batch_op.drop_column("reason")
        batch_op.drop_column("examples")
        batch_op.drop_column("log_odds")
        batch_op.drop_column("coverage")
        batch_op.drop_column("judged_count")
        batch_op.drop_column("pattern")
        batch_op.drop_column("none_of")
        batch_op.drop_column("all_of")
        batch_op.drop_column("label_id")

    with op.batch_alter_table("intent_domains") as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_intent_domains_rule_policy"), type_="check")
        batch_op.drop_column("dictionary")
        batch_op.drop_column("rule_policy")
        batch_op.drop_column("rules_due")
        batch_op.drop_column("rule_seq")

    op.drop_table("intent_rule_sets")
    op.drop_table("intent_tombstones")
    op.drop_table("intent_counters")
    op.drop_table("intent_audit_events")
    op.drop_table("intent_api_keys")
