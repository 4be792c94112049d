"""Account commands: open, close, freeze, loss, payment status, reserve, limits, inquiries.

Pure: `decide_open` and `decide_change` return the event or the first `Rejection`. Invariant:
each event carries who, when, why and which order, so the registers are reads of the stream.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec

from ledger import events as ev
from ledger import operation as op
from ledger.account import Account
from ledger.buffers import BUFFER_PREFIX
from ledger.errors import Rejection, RejectionReason
from ledger.legs import SUSPENSE_PREFIX
from ledger.stripes import STRIPE_NUMBER, is_engine_account

R = RejectionReason
NAMED_MAX = 10  # accounts that a refusal names


class CommandContext(msgspec.Struct, frozen=True, gc=False):
    """What a command is decided in; `unvouchered`: operations accounting has not ended.

    `waiting`: amounts are accepted for the account and not applied yet. `children`: open accounts
    directly below it.
    """

    command_id: str
    principal: str
    business_date: str
    booked_at: str
    unvouchered: bool = False
    waiting: bool = False
    children: tuple[str, ...] = ()


def decide_open(
    request: op.OpenAccount,
    *,
    book_id: str,
    existing: Account | None,
    parent: Account | None,
    context: CommandContext,
) -> ev.AccountOpened | Rejection:
    """Open an account: the number is free, the parent is open and has the same currency."""
    if existing is not None:
        return Rejection(R.ACCOUNT_EXISTS, 0, request.account)
    own = request.account.startswith((SUSPENSE_PREFIX, BUFFER_PREFIX))
    if own or STRIPE_NUMBER.match(request.account):
        # Opened with another currency or side, it could not take what is sent there.
        return Rejection(R.ACCOUNT_EXISTS, 0, request.account, "the engine opens it itself")
    if request.parent is not None:
        if parent is None:
            return Rejection(R.UNKNOWN_PARENT, 0, request.account, request.parent)
        if is_engine_account(parent):
            return Rejection(R.ENGINE_ACCOUNT, 0, request.account, request.parent)
        if parent.status != "open":
            return Rejection(R.ACCOUNT_CLOSED, 0, request.account, request.parent)
        if parent.currency != request.currency:
            return Rejection(R.CURRENCY_MISMATCH, 0, request.account, request.parent)
    credit_limit = request.credit_limit_minor
    if request.overdraft_floor_minor is not None:
        credit_limit = -request.overdraft_floor_minor
    return ev.AccountOpened(
        book_id=book_id,
        account=request.account,
        owner=request.owner,
        type=request.type,
        subject=request.subject,
        currency=request.currency,
        normal_side=request.normal_side,
        parent=request.parent,
        credit_limit_minor=credit_limit,
        payment_status=request.payment_status,
        version=1,
        business_date=context.business_date,
        booked_at=context.booked_at,
        principal=context.principal,
        command_id=context.command_id,
    )


def decide_change(
    account: Account, change: op.Change, context: CommandContext
) -> ev.Administered | Rejection:
    """Decide a change of an open account's standing.

    A suspense account takes whatever could not be placed, so its standing never changes.
    """
    inquires = isinstance(change, op.RegisterInquiry)
    if account.number.startswith(SUSPENSE_PREFIX) and not inquires:
        return Rejection(R.ENGINE_ACCOUNT, 0, account.number, "suspense must take what comes")
    if is_engine_account(account) and not inquires:
        return Rejection(R.ENGINE_ACCOUNT, 0, account.number, "its account has the standing")
    if account.business_date is not None and context.business_date < account.business_date:
        return Rejection(R.DATE_BEFORE_ACCOUNT, 0, account.number)
    if account.status != "open" and not inquires:
        return Rejection(R.ACCOUNT_CLOSED, 0, account.number)
    decision: ev.Administered | Rejection = _DECIDE[type(change)](account, change, context)
    return decision


def _common(account: Account, change: op.Change, context: CommandContext) -> dict[str, Any]:
    return {
        "account": account.number,
        "version": account.version + 1,
        "business_date": context.business_date,
        "booked_at": context.booked_at,
        "principal": context.principal,
        "command_id": context.command_id,
        "reason": change.reason,
        "authority": change.authority,
        "order_number": change.order_number,
    }


def _refuse(account: Account, reason: RejectionReason, detail: str = "") -> Rejection:
    return Rejection(reason, 0, account.number, detail)


def _close(
    account: Account, change: op.CloseAccount, context: CommandContext
) -> ev.AccountClosed | Rejection:
    if account.balance_minor:
        return _refuse(account, R.BALANCE_REMAINS, f"balance {account.balance_minor}")
    if context.waiting:
        return _refuse(account, R.BALANCE_REMAINS, "accepted amounts wait to be applied")
    if account.holds:
        return _refuse(account, R.HOLD_REMAINS, ", ".join(sorted(account.holds)))
    if account.freezes:
        return _refuse(account, R.FREEZE_REMAINS, ", ".join(sorted(account.freezes)))
    if context.children:
        return _refuse(account, R.CHILDREN_REMAIN, ", ".join(context.children[:NAMED_MAX]))
    if context.unvouchered:
        return _refuse(account, R.UNVOUCHERED_REMAINS)
    return ev.AccountClosed(**_common(account, change, context))


def _freeze(
    account: Account, change: op.FreezeAccount, context: CommandContext
) -> ev.AccountFrozen | Rejection:
    if change.freeze_id in account.freezes:
        return _refuse(account, R.FREEZE_EXISTS, change.freeze_id)
    return ev.AccountFrozen(freeze_id=change.freeze_id, **_common(account, change, context))


def _unfreeze(
    account: Account, change: op.UnfreezeAccount, context: CommandContext
) -> ev.AccountUnfrozen | Rejection:
    freeze = account.freezes.get(change.freeze_id)
    if freeze is None or freeze.amount_minor is not None:
        return _refuse(account, R.UNKNOWN_FREEZE, change.freeze_id)
    if freeze.authority != change.authority:
        return _refuse(account, R.OTHER_AUTHORITY, freeze.authority)
    return ev.AccountUnfrozen(freeze_id=change.freeze_id, **_common(account, change, context))


def _report_loss(
    account: Account, change: op.ReportLoss, context: CommandContext
) -> ev.AccountLossReported | Rejection:
    if account.lost:
        return _refuse(account, R.NO_CHANGE)
    return ev.AccountLossReported(**_common(account, change, context))


def _report_found(
    account: Account, change: op.ReportFound, context: CommandContext
) -> ev.AccountFound | Rejection:
    if not account.lost:
        return _refuse(account, R.NO_CHANGE)
    return ev.AccountFound(**_common(account, change, context))


def _payment_status(
    account: Account, change: op.SetPaymentStatus, context: CommandContext
) -> ev.PaymentStatusSet | Rejection:
    return ev.PaymentStatusSet(
        payment_status=change.payment_status,
        partial_types=change.partial_types,
        partial_amount_minor=change.partial_amount_minor,
        **_common(account, change, context),
    )


def _reserve(
    account: Account, change: op.SetReserve, context: CommandContext
) -> ev.ReserveSet | Rejection:
    return ev.ReserveSet(reserve_minor=change.reserve_minor, **_common(account, change, context))


def _credit_limit(
    account: Account, change: op.SetCreditLimit, context: CommandContext
) -> ev.CreditLimitSet | Rejection:
    valid_from = _date(change.valid_from)
    if valid_from is None and change.agreement and change.credit_limit_minor is not None:
        valid_from = context.business_date  # a signed limit is in force from some day on
    return ev.CreditLimitSet(
        credit_limit_minor=change.credit_limit_minor,
        agreement=change.agreement,
        valid_from=valid_from,
        valid_to=_date(change.valid_to),
        **_common(account, change, context),
    )


def _date(date: dt.date | None) -> str | None:
    return None if date is None else date.isoformat()


def _limit(
    account: Account, change: op.SetLimit, context: CommandContext
) -> ev.LimitSet | Rejection:
    return ev.LimitSet(
        business_type=change.business_type,
        per_operation_minor=change.per_operation_minor,
        per_day_amount_minor=change.per_day_amount_minor,
        per_day_count=change.per_day_count,
        **_common(account, change, context),
    )


def _buffering(
    account: Account, change: op.SetBuffering, context: CommandContext
) -> ev.BufferingSet | Rejection:
    if change.buffer_ms and change.directions == "both" and account.credit_limit_minor is not None:
        return _refuse(account, R.BUFFER_BOTH_NEEDS_NO_FLOOR)
    return ev.BufferingSet(
        buffer_ms=change.buffer_ms,
        directions=change.directions,
        agreement=change.agreement,
        valid_from=_date(change.valid_from),
        valid_to=_date(change.valid_to),
        entries_max=change.entries_max,
        **_common(account, change, context),
    )


def _stripes(
    account: Account, change: op.SetStripes, context: CommandContext
) -> ev.StripesSet | Rejection:
    return ev.StripesSet(stripes=change.stripes, **_common(account, change, context))


def _inquiry(
    account: Account, change: op.RegisterInquiry, context: CommandContext
) -> ev.CourtInquiryRegistered | Rejection:
    return ev.CourtInquiryRegistered(**_common(account, change, context))


_DECIDE: dict[type, Callable[[Account, Any, CommandContext], Any]] = {
    op.CloseAccount: _close,
    op.FreezeAccount: _freeze,
    op.UnfreezeAccount: _unfreeze,
    op.ReportLoss: _report_loss,
    op.ReportFound: _report_found,
    op.SetPaymentStatus: _payment_status,
    op.SetReserve: _reserve,
    op.SetCreditLimit: _credit_limit,
    op.SetLimit: _limit,
    op.SetBuffering: _buffering,
    op.SetStripes: _stripes,
    op.RegisterInquiry: _inquiry,
}
