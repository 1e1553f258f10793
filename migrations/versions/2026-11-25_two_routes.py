"""Which base model a domain trains from, how its threshold is chosen, and its generative version.

Revision: 2026_11_25_two_routes, after 2026_11_25_serving

Expand only: the code that runs knows nothing of the new columns, and each has a value where it writes none.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_25_two_routes"
down_revision = "2026_11_25_serving"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("intent_domains") as domains:
        domains.add_column(sa.Column("base_model", sa.String(length=255), nullable=True))
        domains.add_column(sa.Column("threshold_policy", sa.String(length=16), nullable=False, server_default="sweep"))
        domains.add_column(sa.Column("generative_version_id", sa.BigInteger(), nullable=True))
        domains.create_check_constraint(
            op.f("ck_intent_domains_threshold_policy"), "threshold_policy IN ('sweep', 'risk')"
        )
    op.add_column("intent_model_activations", sa.Column("generative_version_id", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("intent_model_activations") as activations:
        activations.drop_column("generative_version_id")
    with op.batch_alter_table("intent_domains") as domains:
        domains.drop_constraint(op.f("ck_intent_domains_threshold_policy"), type_="check")
        domains.drop_column("generative_version_id")
        domains.drop_column("threshold_policy")
        domains.drop_column("base_model")
