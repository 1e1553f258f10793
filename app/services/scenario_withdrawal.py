"""Take from proposed scenarios what forgotten texts left in them; of its own, because forgetting knows no answers."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Scenario


def withdraw(session: Session, scenario_ids: set[int], forgotten: set[int]) -> None:
    """Take from these scenarios what their forgotten texts left in them.

    Key words go, for they may be theirs. A proposal goes whole: it is not shown until it is found anew. Its row stays
    until then, because its other members name it, and whoever forgets holds the texts already that it forgets.
    """
    rows = session.scalars(
        select(Scenario).where(Scenario.id.in_(scenario_ids)).order_by(Scenario.id).with_for_update()
    ).all()
    for scenario in rows:
        scenario.keywords = []
        scenario.typical = [text_id for text_id in scenario.typical if text_id not in forgotten]
        if scenario.status == "proposed":
            scenario.text_count = scenario.question_count = 0
            scenario.typical = []
