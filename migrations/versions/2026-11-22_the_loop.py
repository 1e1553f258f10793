"""The tables of the loop: domains, labels, questions, texts, annotations, batches, versions, flips, runs.

Revision: 2026_11_22_the_loop, the first

Expand, backfill in slices, contract in a later release: each statement must work beside the code that runs.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.db.types import HashText, Id, Json, LabelText, LongText, UtcDateTime, UuidText

revision = "2026_11_22_the_loop"
down_revision = None
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
        "intent_domains",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("task", sa.String(length=16), nullable=False),
        sa.Column("keep_text", sa.Boolean(), nullable=False),
        sa.Column("gate", sa.String(length=16), nullable=False),
        sa.Column("recipe", sa.String(length=32), nullable=False),
        sa.Column("taxonomy_version", sa.Integer(), nullable=False),
        sa.Column("taxonomy_digest", HashText, nullable=True),
        sa.Column("active_version_id", sa.BigInteger(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("batch_seq", sa.Integer(), nullable=False),
        sa.Column("version_seq", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("gate IN ('auto', 'manual')", name=op.f("ck_intent_domains_gate")),
        sa.CheckConstraint("task IN ('single_label', 'multi_label')", name=op.f("ck_intent_domains_task")),
        sa.CheckConstraint("epoch >= 0", name=op.f("ck_intent_domains_epoch")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_domains")),
        sa.UniqueConstraint("name", name=op.f("uq_intent_domains_name")),
        **OPTIONS,
    )
    op.create_table(
        "intent_job_runs",
        sa.Column("id", Id, nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("scheduled_for", UtcDateTime(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("detail", Json, nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("outcome IN ('running', 'done', 'failed', 'died')", name=op.f("ck_intent_job_runs_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_job_runs")),
        sa.UniqueConstraint("job", "scheduled_for", name=op.f("uq_intent_job_runs_job_scheduled_for")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_job_runs_outcome"), "intent_job_runs", ["outcome"], unique=False)
    op.create_table(
        "intent_keyword_rules",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("keyword", sa.String(length=128), nullable=False),
        sa.Column("intent", LabelText, nullable=False),
        sa.Column("confidence_boost", sa.Double(), nullable=False),
        sa.Column("usage_count", sa.Integer(), nullable=False),
        sa.Column("success_count", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("support", sa.Integer(), nullable=False),
        sa.Column("precision", sa.Double(), nullable=True),
        sa.Column("precision_lower", sa.Double(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("source IN ('mined', 'manual')", name=op.f("ck_intent_keyword_rules_source")),
        sa.CheckConstraint("status IN ('candidate', 'active', 'retired')", name=op.f("ck_intent_keyword_rules_status")),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_keyword_rules_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_keyword_rules")),
        sa.UniqueConstraint("domain_id", "keyword", "intent", name="uq_intent_keyword_rules_domain_id_keyword_intent"),
        **OPTIONS,
    )
    op.create_table(
        "intent_labels",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("path", LabelText, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("guideline", sa.Text(), nullable=True),
        sa.Column("since_version", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("status IN ('active', 'retired')", name=op.f("ck_intent_labels_status")),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_labels_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_labels")),
        sa.UniqueConstraint("domain_id", "path", name=op.f("uq_intent_labels_domain_id_path")),
        **OPTIONS,
    )
    op.create_table(
        "intent_model_training_batches",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("batch_id", sa.String(length=128), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=True),
        sa.Column("parent_version", sa.String(length=128), nullable=True),
        sa.Column("training_status", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("description", sa.String(length=500), nullable=True),
        sa.Column("opened_by", sa.String(length=128), nullable=False),
        sa.Column("recipe", sa.String(length=32), nullable=False),
        sa.Column("config", Json, nullable=False),
        sa.Column("auto_extract_keywords", sa.Boolean(), nullable=False),
        sa.Column("question_count", sa.Integer(), nullable=False),
        sa.Column("replay_count", sa.Integer(), nullable=False),
        sa.Column("gold_count", sa.Integer(), nullable=False),
        sa.Column("items_digest", HashText, nullable=False),
        sa.Column("model_path", sa.String(length=512), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("stage", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("running_key", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=True),
        sa.Column("claim_token", UuidText, nullable=True),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=True),
        sa.Column("queued_at", UtcDateTime(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('activated', 'passed', 'refused')", name=op.f("ck_intent_model_training_batches_outcome")
        ),
        sa.CheckConstraint(
            "training_status IN ('pending', 'queued', 'training', 'evaluating', 'completed', 'failed')",
            name=op.f("ck_intent_model_training_batches_training_status"),
        ),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name=op.f("ck_intent_model_training_batches_progress")),
        sa.CheckConstraint("running_key = 1", name=op.f("ck_intent_model_training_batches_running_key")),
        sa.ForeignKeyConstraint(
            ["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_model_training_batches_domain_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_model_training_batches")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_intent_model_training_batches_batch_id")),
        sa.UniqueConstraint(
            "domain_id", "running_key", name=op.f("uq_intent_model_training_batches_domain_id_running_key")
        ),
        **OPTIONS,
    )
    op.create_index(
        op.f("ix_intent_model_training_batches_domain_id"), "intent_model_training_batches", ["domain_id"], unique=False
    )
    op.create_index(
        op.f("ix_intent_model_training_batches_training_status"),
        "intent_model_training_batches",
        ["training_status"],
        unique=False,
    )
    op.create_table(
        "intent_model_versions",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("version", sa.String(length=128), nullable=False),
        sa.Column("recipe", sa.String(length=32), nullable=False),
        sa.Column("model_path", sa.String(length=512), nullable=False),
        sa.Column("artifact_digest", HashText, nullable=False),
        sa.Column("training_batch_id", Id, nullable=True),
        sa.Column("parent_version", sa.String(length=128), nullable=True),
        sa.Column("is_active", sa.Boolean(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("evaluation", Json, nullable=False),
        sa.Column("temperature", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("train_count", sa.Integer(), nullable=False),
        sa.Column("activated_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "status IN ('passed', 'refused', 'failed', 'rolled_back')", name=op.f("ck_intent_model_versions_status")
        ),
        sa.CheckConstraint("is_active = true", name=op.f("ck_intent_model_versions_is_active")),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_model_versions_domain_id")),
        sa.ForeignKeyConstraint(
            ["training_batch_id"],
            ["intent_model_training_batches.id"],
            name=op.f("fk_intent_model_versions_training_batch_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_model_versions")),
        sa.UniqueConstraint("domain_id", "is_active", name=op.f("uq_intent_model_versions_domain_id_is_active")),
        sa.UniqueConstraint("version", name=op.f("uq_intent_model_versions_version")),
        **OPTIONS,
    )
    op.create_table(
        "intent_texts",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("text_hash", HashText, nullable=False),
        sa.Column("group_hash", HashText, nullable=False),
        sa.Column("text", LongText, nullable=True),
        sa.Column("question_id", UuidText, nullable=True),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_asked_at", UtcDateTime(), nullable=True),
        sa.Column("last_asked_at", UtcDateTime(), nullable=True),
        sa.Column("train_allowed", sa.Boolean(), nullable=False),
        sa.Column("is_gold", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=255), nullable=True),
        sa.Column("strategy", sa.String(length=32), nullable=True),
        sa.Column("sampling_probability", sa.Double(), nullable=True),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("intents", Json, nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("topk", Json, nullable=False),
        sa.Column("scored_by", sa.String(length=128), nullable=True),
        sa.Column("label_id", Id, nullable=True),
        sa.Column("annotation_id", Id, nullable=True),
        sa.Column("labelled_at", UtcDateTime(), nullable=True),
        sa.Column("label_source", sa.String(length=16), nullable=True),
        sa.Column("proposed_label", LabelText, nullable=True),
        sa.Column("training_status", sa.String(length=16), nullable=False),
        sa.Column("claimed_by", Id, nullable=True),
        sa.Column("projection_due", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("(state = 'labelled') = (label_id IS NOT NULL)", name=op.f("ck_intent_texts_label")),
        sa.CheckConstraint("state IN ('unlabelled', 'labelled', 'skipped')", name=op.f("ck_intent_texts_state")),
        sa.CheckConstraint(
            "training_status IN ('pending', 'claimed', 'used', 'skipped')", name=op.f("ck_intent_texts_training_status")
        ),
        sa.CheckConstraint("count >= 0", name=op.f("ck_intent_texts_count")),
        sa.ForeignKeyConstraint(
            ["claimed_by"], ["intent_model_training_batches.id"], name=op.f("fk_intent_texts_claimed_by")
        ),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_texts_domain_id")),
        sa.ForeignKeyConstraint(["label_id"], ["intent_labels.id"], name=op.f("fk_intent_texts_label_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_texts")),
        sa.UniqueConstraint("domain_id", "text_hash", name=op.f("uq_intent_texts_domain_id_text_hash")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_texts_claimed_by"), "intent_texts", ["claimed_by"], unique=False)
    op.create_index(
        op.f("ix_intent_texts_domain_id_proposed_label"), "intent_texts", ["domain_id", "proposed_label"], unique=False
    )
    op.create_index(
        op.f("ix_intent_texts_domain_id_state_priority"),
        "intent_texts",
        ["domain_id", "state", "priority"],
        unique=False,
    )
    op.create_index(
        op.f("ix_intent_texts_domain_id_state_text_hash"),
        "intent_texts",
        ["domain_id", "state", "text_hash"],
        unique=False,
    )
    op.create_index(
        op.f("ix_intent_texts_domain_id_training_status_is_gold"),
        "intent_texts",
        ["domain_id", "training_status", "is_gold"],
        unique=False,
    )
    op.create_index(op.f("ix_intent_texts_projection_due"), "intent_texts", ["projection_due"], unique=False)
    op.create_table(
        "intent_annotations",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("text_id", Id, nullable=False),
        sa.Column("question_id", UuidText, nullable=True),
        sa.Column("labeler_id", sa.String(length=128), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("label_id", Id, nullable=True),
        sa.Column("answer", Json, nullable=True),
        sa.Column("time_intent", Json, nullable=True),
        sa.Column("proposed_label", LabelText, nullable=True),
        sa.Column("supersedes_id", Id, nullable=True),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("(kind = 'label') = (label_id IS NOT NULL)", name=op.f("ck_intent_annotations_answer")),
        sa.CheckConstraint("kind IN ('label', 'skip', 'retract')", name=op.f("ck_intent_annotations_kind")),
        sa.CheckConstraint("source IN ('labeler', 'import', 'system')", name=op.f("ck_intent_annotations_source")),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_annotations_domain_id")),
        sa.ForeignKeyConstraint(["label_id"], ["intent_labels.id"], name=op.f("fk_intent_annotations_label_id")),
        sa.ForeignKeyConstraint(
            ["supersedes_id"], ["intent_annotations.id"], name=op.f("fk_intent_annotations_supersedes_id")
        ),
        sa.ForeignKeyConstraint(["text_id"], ["intent_texts.id"], name=op.f("fk_intent_annotations_text_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_annotations")),
        sa.UniqueConstraint(
            "text_id", "labeler_id", "revision", name=op.f("uq_intent_annotations_text_id_labeler_id_revision")
        ),
        **OPTIONS,
    )
    op.create_index(
        op.f("ix_intent_annotations_domain_id_labeler_id"),
        "intent_annotations",
        ["domain_id", "labeler_id"],
        unique=False,
    )
    op.create_index(op.f("ix_intent_annotations_supersedes_id"), "intent_annotations", ["supersedes_id"], unique=False)
    op.create_table(
        "intent_batch_items",
        sa.Column("batch_id", Id, autoincrement=False, nullable=False),
        sa.Column("text_id", Id, autoincrement=False, nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("label_id", Id, nullable=False),
        sa.Column("label", LabelText, nullable=False),
        sa.CheckConstraint("role IN ('new', 'replay', 'gold')", name=op.f("ck_intent_batch_items_role")),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["intent_model_training_batches.id"], name=op.f("fk_intent_batch_items_batch_id")
        ),
        sa.ForeignKeyConstraint(["label_id"], ["intent_labels.id"], name=op.f("fk_intent_batch_items_label_id")),
        sa.ForeignKeyConstraint(["text_id"], ["intent_texts.id"], name=op.f("fk_intent_batch_items_text_id")),
        sa.PrimaryKeyConstraint("batch_id", "text_id", name=op.f("pk_intent_batch_items")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_batch_items_text_id"), "intent_batch_items", ["text_id"], unique=False)
    op.create_table(
        "intent_leases",
        sa.Column("text_id", Id, autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("labeler_id", sa.String(length=128), nullable=False),
        sa.Column("token", UuidText, nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_leases_domain_id")),
        sa.ForeignKeyConstraint(["text_id"], ["intent_texts.id"], name=op.f("fk_intent_leases_text_id")),
        sa.PrimaryKeyConstraint("text_id", "slot", name=op.f("pk_intent_leases")),
        **OPTIONS,
    )
    op.create_index(
        op.f("ix_intent_leases_domain_id_labeler_id"), "intent_leases", ["domain_id", "labeler_id"], unique=False
    )
    op.create_table(
        "intent_model_activations",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("version_id", Id, nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("rule_set_revision", sa.Integer(), nullable=True),
        sa.Column("fusion", Json, nullable=True),
        sa.Column("activated_by", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('activate', 'rollback')", name=op.f("ck_intent_model_activations_kind")),
        sa.CheckConstraint("threshold >= 0 AND threshold <= 1", name=op.f("ck_intent_model_activations_threshold")),
        sa.ForeignKeyConstraint(
            ["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_model_activations_domain_id")
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["intent_model_versions.id"], name=op.f("fk_intent_model_activations_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_model_activations")),
        sa.UniqueConstraint("domain_id", "epoch", name=op.f("uq_intent_model_activations_domain_id_epoch")),
        **OPTIONS,
    )
    op.create_index(
        op.f("ix_intent_model_activations_version_id"), "intent_model_activations", ["version_id"], unique=False
    )
    op.create_table(
        "intent_replicas",
        sa.Column("replica", sa.String(length=128), nullable=False),
        sa.Column("domain_id", Id, autoincrement=False, nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("version_id", Id, nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("reported_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("role IN ('service', 'clock')", name=op.f("ck_intent_replicas_role")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["intent_model_versions.id"], name=op.f("fk_intent_replicas_version_id")
        ),
        sa.PrimaryKeyConstraint("replica", "domain_id", name=op.f("pk_intent_replicas")),
        **OPTIONS,
    )
    op.create_table(
        "intent_user_questions",
        sa.Column("question_id", UuidText, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("body_hash", HashText, nullable=False),
        sa.Column("user_hash", HashText, nullable=True),
        sa.Column("question", LongText, nullable=True),
        sa.Column("text_hash", HashText, nullable=False),
        sa.Column("text_id", Id, nullable=True),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("train_allowed", sa.Boolean(), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("intents", Json, nullable=False),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("method", sa.String(length=32), nullable=False),
        sa.Column("topk", Json, nullable=False),
        sa.Column("verdicts", Json, nullable=False),
        sa.Column("route_used", Json, nullable=False),
        sa.Column("trigger_check", sa.Boolean(), nullable=False),
        sa.Column("model_version", sa.String(length=128), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("is_labeled", sa.Boolean(), nullable=False),
        sa.Column("correct_intent", Json, nullable=True),
        sa.Column("correct_time_intent", Json, nullable=True),
        sa.Column("training_status", sa.String(length=16), nullable=False),
        sa.Column("labeler_id", sa.String(length=128), nullable=True),
        sa.Column("labeled_at", UtcDateTime(), nullable=True),
        sa.Column("priority", sa.Double(), nullable=True),
        sa.Column("priority_reason", sa.String(length=255), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "method IN ('local_model', 'keyword_fallback', 'generative', 'llm_fallback', 'none')",
            name=op.f("ck_intent_user_questions_method"),
        ),
        sa.CheckConstraint("source IN ('served', 'external')", name=op.f("ck_intent_user_questions_source")),
        sa.CheckConstraint(
            "training_status IN ('pending', 'used', 'skipped')", name=op.f("ck_intent_user_questions_training_status")
        ),
        sa.CheckConstraint("confidence >= 0 AND confidence <= 1", name=op.f("ck_intent_user_questions_confidence")),
        sa.ForeignKeyConstraint(["text_id"], ["intent_texts.id"], name=op.f("fk_intent_user_questions_text_id")),
        sa.PrimaryKeyConstraint("question_id", name=op.f("pk_intent_user_questions")),
        sa.UniqueConstraint("domain_id", "request_id", name=op.f("uq_intent_user_questions_domain_id_request_id")),
        **OPTIONS,
    )
    op.create_index(
        op.f("ix_intent_user_questions_domain_id_asked_at"),
        "intent_user_questions",
        ["domain_id", "asked_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_intent_user_questions_text_id_question_id"),
        "intent_user_questions",
        ["text_id", "question_id"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("intent_user_questions")
    op.drop_table("intent_replicas")
    op.drop_table("intent_model_activations")
    op.drop_table("intent_leases")
    op.drop_table("intent_batch_items")
    op.drop_table("intent_annotations")
    op.drop_table("intent_texts")
    op.drop_table("intent_model_versions")
    op.drop_table("intent_model_training_batches")
    op.drop_table("intent_labels")
    op.drop_table("intent_keyword_rules")
    op.drop_table("intent_job_runs")
    op.drop_table("intent_domains")
