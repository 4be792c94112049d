"""Everything that can go wrong in the ledger, as values and as exceptions.

Business rejections are values (`Rejection` with an ordered `RejectionReason`): they are
decided, recorded and answered the same again. Exceptions record nothing:

    LedgerError
    ├── InvalidRequest          the request cannot be read            (400 family)
    │   ├── OperationIdMissing
    │   ├── OperationTooLarge
    │   └── UnknownName         unknown book, currency or business type
    ├── OperationIdReused       same operation id, other body
    ├── OperationRunning        same operation id is being booked now
    ├── NotAuthenticated        no key, or a key nobody knows
    ├── NotPermitted            the principal lacks the scope
    ├── NotFound                no such account, operation, book
    ├── VersionMismatch         If-Match named another version
    ├── DayRefused              the open business date cannot be moved so
    ├── StoreUnavailable        the database cannot be reached        (retriable)
    ├── Overloaded              too much waits for the engine          (retriable)
    ├── ClockAhead              this machine's clock is far ahead     (retriable)
    ├── BufferFull              a buffer is not applied in time       (retriable)
    ├── BacklogTooLong          accounting is too far behind           (retriable)
    ├── EngineStopped           draining, or the clock jumped          (retriable)
    └── LogCorrupt              a hole in the log, a seal that does not chain

HTTP numbers live in one table in `ledger/api.py`, not here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class RejectionReason(StrEnum):
    """Why an operation was refused, in order: the first that applies is the answer."""

    UNKNOWN_ACCOUNT = "unknown_account"
    ACCOUNT_EXISTS = "account_exists"
    ENGINE_ACCOUNT = "engine_account"
    UNKNOWN_PARENT = "unknown_parent"
    CURRENCY_MISMATCH = "currency_mismatch"
    DUPLICATE_ACCOUNT = "duplicate_account"
    DATE_BEFORE_ACCOUNT = "date_before_account"
    DATE_CLOSED = "date_closed"
    HISTORY_ONLY = "history_only"
    NOT_HISTORY = "not_history"
    UNKNOWN_ORIGINAL = "unknown_original"
    ORIGINAL_NOT_BOOKED = "original_not_booked"
    PAYOUT_STAGE = "payout_stage"
    PAYOUT_INCOMPLETE = "payout_incomplete"
    REFUND_PART_UNKNOWN = "refund_part_unknown"
    REFUND_EXCEEDS_PART = "refund_exceeds_part"
    ACCOUNT_CLOSED = "account_closed"
    ACCOUNT_FROZEN = "account_frozen"
    ACCOUNT_LOST = "account_lost"
    ACCOUNT_BLOCKED = "account_blocked"
    ACCOUNT_RECEIVE_ONLY = "account_receive_only"
    ACCOUNT_PARTIAL_STOP = "account_partial_stop"
    HOLD_ON_DEBIT_ACCOUNT = "hold_on_debit_account"
    HOLD_EXISTS = "hold_exists"
    UNKNOWN_HOLD = "unknown_hold"
    HOLD_EXPIRY_PAST = "hold_expiry_past"
    HOLD_OF_PAYOUT = "hold_of_payout"
    HOLD_EXCEEDED = "hold_exceeded"
    FREEZE_EXISTS = "freeze_exists"
    UNKNOWN_FREEZE = "unknown_freeze"
    OTHER_AUTHORITY = "other_authority"
    FREEZE_EXCEEDED = "freeze_exceeded"
    LIMIT_PER_OPERATION = "limit_per_operation"
    LIMIT_PER_DAY_COUNT = "limit_per_day_count"
    LIMIT_PER_DAY_AMOUNT = "limit_per_day_amount"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    AMOUNT_OVERFLOW = "amount_overflow"
    ACCOUNT_BUSY = "account_busy"
    BUFFER_BOTH_NEEDS_NO_FLOOR = "buffer_both_needs_no_floor"
    BALANCE_REMAINS = "balance_remains"
    HOLD_REMAINS = "hold_remains"
    FREEZE_REMAINS = "freeze_remains"
    CHILDREN_REMAIN = "children_remain"
    UNVOUCHERED_REMAINS = "unvouchered_remains"
    NO_CHANGE = "no_change"
    ATOMIC_BATCH_REJECTED = "atomic_batch_rejected"


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A refusal: reason, the leg it happened at (1-based, 0 = the whole), account, detail."""

    reason: RejectionReason
    leg_no: int = 0
    account: str | None = None
    detail: str = ""


class LedgerError(Exception):
    """The root. `code` is stable; `retriable` says whether the same call may succeed later."""

    code = "ledger_error"
    retriable = False

    def __init__(self, detail: str = "", **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class InvalidRequest(LedgerError):
    """The request cannot be read as what it claims to be; nothing was recorded."""

    code = "invalid_request"

    def __init__(self, detail: str = "", *, code: str | None = None, **fields: Any) -> None:
        super().__init__(detail, **fields)
        if code is not None:
            self.code = code


class OperationIdMissing(InvalidRequest):
    """Neither `operation_id` nor an `Idempotency-Key` header was given."""

    code = "operation_id_missing"


class OperationTooLarge(InvalidRequest):
    """The encoded operation would not fit a bus message; refused before it is decided."""

    code = "operation_too_large"


class UnknownName(InvalidRequest):
    """A book, currency or business type that nobody declared."""

    code = "unknown_name"


class OperationIdReused(LedgerError):
    """The operation id is already recorded with another body."""

    code = "operation_id_reused"


class OperationRunning(LedgerError):
    """The same operation id is being booked right now; ask again."""

    code = "operation_running"
    retriable = True


class NotAuthenticated(LedgerError):
    """No key, or a key that is unknown or revoked."""

    code = "not_authenticated"


class NotPermitted(LedgerError):
    """The principal is known but lacks the scope or the book."""

    code = "not_permitted"


class NotFound(LedgerError):
    """No such account, operation or book."""

    code = "not_found"


class VersionMismatch(LedgerError):
    """`If-Match` named a version that is not the account's."""

    code = "version_mismatch"


class DayRefused(LedgerError):
    """The open business date moves forward only."""

    code = "day_refused"


class StoreUnavailable(LedgerError):
    """PostgreSQL cannot be reached or refuses writes; nothing is known to be lost."""

    code = "store_unavailable"
    retriable = True


class Overloaded(LedgerError):
    """The queue is full, or others wait too long; what returns money still passes the latter."""

    code = "overloaded"
    retriable = True


class ClockAhead(LedgerError):
    """This machine's clock is far ahead of the database's; nothing was recorded."""

    code = "clock_ahead"
    retriable = True


class BacklogTooLong(LedgerError):
    """Accounting is over its hard limit behind the ledger; what returns money still passes."""

    code = "backlog"
    retriable = True


class BufferFull(LedgerError):
    """What waits for a hot account is too old or too much; what returns money still passes."""

    code = "buffer_full"
    retriable = True


class EngineStopped(LedgerError):
    """The engine drains or stopped itself (clock jump); nothing was recorded."""

    code = "engine_stopped"
    retriable = True


class LogCorrupt(LedgerError):
    """A hole in the positions or a seal that does not follow its predecessor."""

    code = "log_corrupt"
