"""The opening of accounts that the engine keeps below another: buffer and stripe accounts. Pure."""

from __future__ import annotations

from ledger import events as ev
from ledger.account import Account, LegContext


def opened_below(
    account: Account,
    number: str,
    kind: str,
    context: LegContext,
    *,
    credit_limit_minor: int | None,
    principal: str,
) -> ev.AccountOpened:
    """Return the opening of a part of an account: like the account, and below it in the tree."""
    return ev.AccountOpened(
        book_id=account.book_id,
        account=number,
        owner=account.owner,
        type=kind,
        subject=account.subject,
        currency=account.currency,
        normal_side=account.normal_side,
        parent=account.number,
        credit_limit_minor=credit_limit_minor,
        version=1,
        business_date=context.business_date,
        booked_at=context.booked_at,
        principal=principal,
        command_id=f"daybook:open:{number}",
    )
