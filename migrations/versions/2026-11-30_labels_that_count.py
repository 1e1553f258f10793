"""Near twins, selection mixes, blind answers, suspect labels, proposed scenarios, changes of the taxonomy.

Revision: 2026_11_30_labels_that_count, after 2026_11_25_two_routes

Expand only: the code that runs knows nothing of the new columns and tables, each column has a value where it writes
none, and what it writes is allowed as before.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.db.types import Id, Json, UtcDateTime

revision = "2026_11_30_labels_that_count"
down_revision = "2026_11_25_two_routes"
branch_labels = None
depends_on = None

# Binary comparison: with MySQL's default collation "é" and "e" would be one unique key.
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}
TEXT_INDEXES = (
    ("ix_intent_texts_domain_id_group_hash", ["domain_id", "group_hash"]),
    ("ix_intent_texts_scenario_id", ["scenario_id"]),
    ("ix_intent_texts_domain_id_suspicion", ["domain_id", "suspicion"]),
    ("ix_intent_texts_domain_id_is_flagged", ["domain_id", "is_flagged"]),
    ("ix_intent_texts_is_grouped", ["is_grouped"]),
)


def upgrade() -> None:
    _widen_domains_and_labels()
    with op.batch_alter_table("intent_texts") as texts:
        texts.add_column(sa.Column("is_grouped", sa.Boolean(), nullable=False, server_default=sa.false()))
        texts.add_column(sa.Column("is_flagged", sa.Boolean(), nullable=False, server_default=sa.false()))
        texts.add_column(sa.Column("scenario_id", Id, nullable=True))
        texts.add_column(sa.Column("suspicion", sa.Double(), nullable=True))
        texts.add_column(sa.Column("suspicion_evidence", Json, nullable=True))
        texts.add_column(sa.Column("confirmed_annotation_id", Id, nullable=True))
        texts.drop_constraint(op.f("ck_intent_texts_state"), type_="check")
        texts.create_check_constraint(
            op.f("ck_intent_texts_state"),
            "state IN ('unlabelled', 'labelled', 'skipped', 'discarded', 'disputed')",
        )
    for name, columns in TEXT_INDEXES:
        op.create_index(op.f(name), "intent_texts", columns)
    with op.batch_alter_table("intent_annotations") as annotations:
        annotations.add_column(sa.Column("is_blind", sa.Boolean(), nullable=False, server_default=sa.false()))
        annotations.drop_constraint(op.f("ck_intent_annotations_kind"), type_="check")
        annotations.create_check_constraint(
            op.f("ck_intent_annotations_kind"), "kind IN ('label', 'skip', 'discard', 'flag', 'retract')"
        )
    op.create_index(op.f("ix_intent_annotations_domain_id_is_blind"), "intent_annotations", ["domain_id", "is_blind"])
    op.add_column("intent_model_versions", sa.Column("taxonomy", Json, nullable=True))
    _create_tables()


def _widen_domains_and_labels() -> None:
    with op.batch_alter_table("intent_domains") as domains:
        domains.add_column(sa.Column("selection_mix", Json, nullable=True))
        domains.add_column(sa.Column("confusion_pairs", Json, nullable=True))
        domains.add_column(sa.Column("last_selection", Json, nullable=True))
        domains.add_column(sa.Column("overlap", sa.Integer(), nullable=False, server_default="1"))
        domains.add_column(sa.Column("overlap_share", sa.Double(), nullable=False, server_default="1"))
        domains.create_check_constraint(op.f("ck_intent_domains_overlap"), "overlap >= 1 AND overlap <= 9")
        domains.create_check_constraint(
            op.f("ck_intent_domains_overlap_share"), "overlap_share >= 0 AND overlap_share <= 1"
        )
    with op.batch_alter_table("intent_labels") as labels:
        labels.add_column(sa.Column("merged_into_id", Id, nullable=True))
        labels.add_column(sa.Column("former_paths", Json, nullable=True))
        labels.add_column(sa.Column("trains_from", sa.Integer(), nullable=False, server_default="2"))


def _create_tables() -> None:
    op.create_table(
        "intent_text_bands",
        sa.Column("domain_id", Id, autoincrement=False, nullable=False),
        sa.Column("band", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("text_id", Id, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("domain_id", "band", "text_id", name=op.f("pk_intent_text_bands")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_text_bands_text_id"), "intent_text_bands", ["text_id"])
    op.create_table(
        "intent_taxonomy_changes",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("arguments", Json, nullable=False),
        sa.Column("touched", Json, nullable=False),
        sa.Column("before", Json, nullable=False),
        sa.Column("taxonomy_version", sa.Integer(), nullable=False),
        sa.Column("made_by", sa.String(length=128), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=True),
        sa.Column("undone_at", UtcDateTime(), nullable=True),
        sa.Column("undone_by", sa.String(length=128), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('rename', 'move', 'merge', 'retire', 'split')", name=op.f("ck_intent_taxonomy_changes_kind")
        ),
        sa.ForeignKeyConstraint(
            ["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_taxonomy_changes_domain_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_taxonomy_changes")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_taxonomy_changes_domain_id_id"), "intent_taxonomy_changes", ["domain_id", "id"])
    op.create_table(
        "intent_scenarios",
        sa.Column("id", Id, nullable=False),
        sa.Column("domain_id", Id, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("text_count", sa.Integer(), nullable=False),
        sa.Column("question_count", sa.Integer(), nullable=False),
        sa.Column("keywords", Json, nullable=False),
        sa.Column("typical", Json, nullable=False),
        sa.Column("label_id", Id, nullable=True),
        sa.Column("decided_by", sa.String(length=128), nullable=True),
        sa.Column("decided_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("status IN ('proposed', 'accepted', 'dismissed')", name=op.f("ck_intent_scenarios_status")),
        sa.ForeignKeyConstraint(["domain_id"], ["intent_domains.id"], name=op.f("fk_intent_scenarios_domain_id")),
        sa.ForeignKeyConstraint(["label_id"], ["intent_labels.id"], name=op.f("fk_intent_scenarios_label_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intent_scenarios")),
        **OPTIONS,
    )
    op.create_index(op.f("ix_intent_scenarios_domain_id_status"), "intent_scenarios", ["domain_id", "status"])


def downgrade() -> None:
    op.drop_table("intent_scenarios")
    op.drop_table("intent_taxonomy_changes")
    op.drop_table("intent_text_bands")
    op.drop_column("intent_model_versions", "taxonomy")
    # What the code of before cannot read: an answer that discards or flags goes, and its text waits again. First what
    # takes one back, which refers to it; in a table of its own, since MySQL deletes from none that it selects from.
    op.execute(
        "DELETE FROM intent_annotations WHERE supersedes_id IN "
        "(SELECT id FROM (SELECT id FROM intent_annotations WHERE kind IN ('discard', 'flag')) AS gone)"
    )
    op.execute("DELETE FROM intent_annotations WHERE kind IN ('discard', 'flag')")
    op.execute("UPDATE intent_texts SET state = 'unlabelled' WHERE state IN ('discarded', 'disputed')")
    op.drop_index(op.f("ix_intent_annotations_domain_id_is_blind"), "intent_annotations")
    with op.batch_alter_table("intent_annotations") as annotations:
        annotations.drop_constraint(op.f("ck_intent_annotations_kind"), type_="check")
        annotations.create_check_constraint(op.f("ck_intent_annotations_kind"), "kind IN ('label', 'skip', 'retract')")
        annotations.drop_column("is_blind")
    for name, _ in TEXT_INDEXES:
        op.drop_index(op.f(name), "intent_texts")
    with op.batch_alter_table("intent_texts") as texts:
        texts.drop_constraint(op.f("ck_intent_texts_state"), type_="check")
        texts.create_check_constraint(op.f("ck_intent_texts_state"), "state IN ('unlabelled', 'labelled', 'skipped')")
        for name in ("confirmed_annotation_id", "suspicion_evidence", "suspicion", "scenario_id", "is_flagged"):
            texts.drop_column(name)
        texts.drop_column("is_grouped")
    with op.batch_alter_table("intent_labels") as labels:
        labels.drop_column("trains_from")
        labels.drop_column("former_paths")
        labels.drop_column("merged_into_id")
    with op.batch_alter_table("intent_domains") as domains:
        domains.drop_constraint(op.f("ck_intent_domains_overlap_share"), type_="check")
        domains.drop_constraint(op.f("ck_intent_domains_overlap"), type_="check")
        for name in ("overlap_share", "overlap", "last_selection", "confusion_pairs", "selection_mix"):
            domains.drop_column(name)
