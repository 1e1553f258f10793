"""How far the import of a file has come.

Revision: 2026_11_25_serving, after 2026_11_25_rules_keys_figures

Expand only: the code that runs knows nothing of the new table and needs nothing of it.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.db.types import HashText, Id, Json, UtcDateTime

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


def downgrade() -> None:
    op.drop_table("intent_file_imports")
