"""Who holds a text: its slots, the tokens that fence late writers off, and how a lease ends.

Whoever changes a text's leases has locked the text.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.db.session import database_time
from app.db.tables import Domain, Lease, Text
from app.errors import Leased, LeaseLost


def refuse(session: Session, text: Text, labeler_id: str, token: str | None, *, slots: int = 1) -> None:
    """Refuse a labeler who may not write: others hold every slot that is left, or the token is not that of a lease.

    Without a token nothing is known of what the labeler was given; with one, its lease must still be there.

    Raises:
        Leased, LeaseLost.
    """
    leases = of_text(session, text.id)
    if leases:
        moment = database_time(session)
        live = [lease for lease in leases if lease.expires_at > moment]
        if len(live) >= slots and all(lease.labeler_id != labeler_id for lease in live):
            until = min(lease.expires_at for lease in live).isoformat().replace("+00:00", "Z")
            raise Leased("another labeler holds this question", lease_expires_at=until)
    _refuse_token(leases, labeler_id, token)


def refuse_token(session: Session, text: Text, labeler_id: str, token: str | None) -> None:
    """Refuse a token whose lease is gone, of somebody who need not hold the text.

    Raises:
        LeaseLost.
    """
    if token is not None:
        _refuse_token(of_text(session, text.id), labeler_id, token)


def _refuse_token(leases: Sequence[Lease], labeler_id: str, token: str | None) -> None:
    # It is there until another takes the text, or somebody answers it: expired and not taken, it still counts. Under
    # one name there may be two people: the one whose lease ran out must not answer over the other's shoulder.
    if token is not None and not any(lease.token == token and lease.labeler_id == labeler_id for lease in leases):
        raise LeaseLost("this lease ended: the question was leased anew, answered or handed back since")


def of_text(session: Session, text_id: int) -> Sequence[Lease]:
    """The leases of a text, expired ones too."""
    return session.scalars(select(Lease).where(Lease.text_id == text_id).order_by(Lease.slot)).all()


def end(session: Session, text: Text, labeler_id: str, *, slots: int | None = None) -> None:
    """End a labeler's lease, and with it any that ran out.

    `slots`: how many there are now, after an answer; None: as many as before, so that one is free.
    """
    if text.leased_until is None and not _has_slots(session, text):
        return
    expired = Lease.expires_at <= database_time(session)
    session.execute(delete(Lease).where(Lease.text_id == text.id, (Lease.labeler_id == labeler_id) | expired))
    left = of_text(session, text.id) if slots is not None else []
    text.leased_until = min(lease.expires_at for lease in left) if left and len(left) >= (slots or 0) else None


def end_all(session: Session, text: Text) -> None:
    """End every lease of a text that needs no further answer."""
    # Without it there is no lease, and an import of thousands need not look for one each time.
    if text.leased_until is not None or _has_slots(session, text):
        session.execute(delete(Lease).where(Lease.text_id == text.id))
        text.leased_until = None


def _has_slots(session: Session, text: Text) -> bool:
    """Whether it may be held though its `leased_until` is null."""
    # At hand: whoever answers has looked at the domain.
    domain = session.get(Domain, text.domain_id)
    return domain is not None and domain.overlap > 1


def renew(session: Session, held: Sequence[tuple[Text, Lease]], until: datetime, *, overlap: int) -> None:
    """Let what a labeler holds run until then at least."""
    for _, lease in held:
        lease.expires_at = max(lease.expires_at, until)
    if overlap == 1:
        for text, lease in held:
            text.leased_until = lease.expires_at
        return
    full = [text for text, _ in held if text.leased_until is not None]
    session.flush()
    for text in full:
        text.leased_until = min(lease.expires_at for lease in of_text(session, text.id))


def take(
    session: Session,
    texts: Sequence[Text],
    labeler_id: str,
    moment: datetime,
    until: datetime,
    *,
    slots: Mapping[int, int] | None = None,
) -> list[tuple[Text, Lease]]:
    """Lease these locked texts to a labeler; one that they hold, or whose slots are all held, is left out.

    `slots`: how many people each text may be with, by its id; None: each with one.
    """
    if not texts:
        return []
    ids = [text.id for text in texts]
    session.execute(delete(Lease).where(Lease.text_id.in_(ids), Lease.expires_at <= moment))
    live = _live(session, ids) if slots is not None else {}
    taken = []
    for text in texts:
        others, most = live.get(text.id, []), 1 if slots is None else slots[text.id]
        # Two requests of one labeler at once: the other was first.
        if any(lease.labeler_id == labeler_id for lease in others):
            continue
        if len(others) < most:
            used = {lease.slot for lease in others}
            slot = next(number for number in range(1, len(used) + 2) if number not in used)
            lease = Lease(text_id=text.id, slot=slot, domain_id=text.domain_id, labeler_id=labeler_id,
                          token=str(uuid.uuid4()), expires_at=until)  # fmt: skip
            others = [*others, lease]
            taken.append((text, lease))
        # The first that ends makes room.
        text.leased_until = min(lease.expires_at for lease in others) if len(others) >= most else None
    session.add_all([lease for _, lease in taken])
    return taken


def close_slots(session: Session, domain_id: int) -> None:
    """Let every text of a domain that somebody holds be held whole: its number of slots has changed."""
    held = select(Lease.text_id).where(Lease.domain_id == domain_id)
    until = select(func.max(Lease.expires_at)).where(Lease.text_id == Text.id).scalar_subquery()
    session.execute(
        update(Text)
        .where(Text.domain_id == domain_id, Text.leased_until.is_(None), Text.id.in_(held))
        .values(leased_until=until),
        execution_options={"synchronize_session": False},
    )


def _live(session: Session, text_ids: Sequence[int]) -> dict[int, list[Lease]]:
    found: dict[int, list[Lease]] = {}
    for lease in session.scalars(select(Lease).where(Lease.text_id.in_(text_ids))):
        found.setdefault(lease.text_id, []).append(lease)
    return found
