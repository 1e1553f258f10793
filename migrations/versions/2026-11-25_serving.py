"""The indexes of texts that a million rows need.

Revision: 2026_11_25_serving, after 2026_11_25_rules_keys_figures

Expand, backfill in slices, contract in a later release: each statement must work beside the code that runs.
"""

from alembic import op

revision = "2026_11_25_serving"
down_revision = "2026_11_25_rules_keys_figures"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
