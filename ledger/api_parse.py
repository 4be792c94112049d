"""Bytes to submissions: strict decoding, the operation's id, the rules the types cannot say.

Invariant: a submission that leaves here is complete (id, fingerprint, known business type,
no NUL) and small enough for a bus message; whatever is refused here records nothing.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from ledger.business_types import BusinessTypes
from ledger.errors import InvalidRequest, OperationIdMissing, OperationTooLarge
from ledger.money import is_currency
from ledger.operation import (
    BUFFER_MS_MAX,
    BUFFER_MS_MIN,
    Change,
    FreezeAccount,
    OpenAccount,
    Operation,
    RegisterInquiry,
    SetBuffering,
    SetCreditLimit,
    SetLimit,
    SetPaymentStatus,
    Submission,
    UnfreezeAccount,
    check_operation,
    check_operation_id,
    fingerprint_of,
)
from ledger.principals import Principal

T = TypeVar("T")
Request = TypeVar("Request", Operation, OpenAccount, Change)
OPERATION_ID_CHARS_MAX = 128
LEG_BYTES_MAX = 480  # what a booked leg adds to its request, beside the repeated account number

decode_operation = msgspec.json.Decoder(Operation).decode
decode_open_account = msgspec.json.Decoder(OpenAccount).decode
decode_change: Callable[[bytes], Change] = msgspec.json.Decoder(Change).decode

_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_AT = re.compile(r" - at `(?:key in )?\$(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`")
_MISSING = re.compile(r"missing required field `(?P<name>.*?)`")
_AMOUNT_FIELDS = frozenset({"amount", "reserve", "credit_limit", "overdraft_floor"})


def decode(decoder: Callable[[bytes], T], raw: bytes) -> T:
    """Decode strictly. Raises `InvalidRequest` with the code that fits and the field's path."""
    try:
        value = decoder(raw)
    except msgspec.ValidationError as error:
        broken = _broken_json(raw)
        raise _refused(str(error)) if broken is None else _malformed(raw, broken) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(raw, error) from None
    if b"\\u0000" in raw and _NUL_ESCAPE.search(raw):
        raise InvalidRequest("a string contains a NUL character", code="nul_character")
    return value


def _malformed(raw: bytes, error: Exception) -> InvalidRequest:
    code = "nul_character" if b"\x00" in raw else "malformed_json"
    return InvalidRequest(str(error), code=code)


def _broken_json(raw: bytes) -> Exception | None:
    """Return why these bytes are no JSON at all, None if only the schema is broken.

    A decoder stops at the first field that breaks the schema, before it has met the end.
    """
    try:
        raw.decode()
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return error
    return None


def _refused(words: str) -> InvalidRequest:
    at = _AT.search(words)
    path = at["path"].lstrip(".") if at else ""
    for pattern, code in ((_UNKNOWN, "unknown_field"), (_MISSING, "missing_field")):
        named = pattern.search(words)
        if named is not None:
            field = f"{path}.{named['name']}".lstrip(".")
            return InvalidRequest(words, code=code, field=field)
    leaf = path.rpartition(".")[2]
    if leaf in _AMOUNT_FIELDS or path.startswith("amounts["):
        return InvalidRequest(words, code="invalid_amount", field=path)
    if leaf == "operation_id":
        return InvalidRequest(words, code="invalid_operation_id", field=path)
    return InvalidRequest(words, field=path or None)


class Parser:
    """Makes submissions for one deployment: its business types and its size bound."""

    def __init__(self, types: BusinessTypes, operation_bytes_max: int) -> None:
        self._types = types.types
        self._bytes_max = operation_bytes_max

    def operation(
        self, raw: bytes, header_id: bytes | None, book_id: str, principal: Principal
    ) -> Submission:
        """Parse one operation. Raises `InvalidRequest` or `NotPermitted`."""
        operation = decode(decode_operation, raw)
        kind = self._types.get(operation.business_type)
        if kind is None or kind.internal:
            raise InvalidRequest(
                f"no business type {operation.business_type!r}",
                code="unknown_business_type",
                field="business_type",
            )
        principal.require("import" if kind.history else "post")
        operation = _with_id(operation, header_id)
        check_operation(operation)
        for number, leg in enumerate(operation.legs, start=1):
            if leg.expires_at is not None:
                _check_instant(leg.expires_at, number)
        if 2 * len(raw) + LEG_BYTES_MAX * len(operation.legs) > self._bytes_max:
            raise OperationTooLarge(f"an operation has at most {self._bytes_max} bytes when booked")
        return _submission(operation, book_id, principal)

    def open_account(
        self, raw: bytes, header_id: bytes | None, book_id: str, principal: Principal
    ) -> Submission:
        """Parse the opening of an account. Raises `InvalidRequest`."""
        opening = _with_id(decode(decode_open_account, raw), header_id)
        if not is_currency(opening.currency):
            raise InvalidRequest(
                f"{opening.currency!r} is no ISO 4217 currency",
                code="unknown_currency",
                field="currency",
            )
        if opening.overdraft_floor_minor is not None and opening.credit_limit_minor != 0:
            raise InvalidRequest(
                "overdraft_floor and credit_limit say the same: give one", field="overdraft_floor"
            )
        return _submission(opening, book_id, principal)

    def change(
        self,
        raw: bytes,
        header_id: bytes | None,
        book_id: str,
        principal: Principal,
        account: str,
    ) -> Submission:
        """Parse a command on an account. Raises `InvalidRequest`."""
        change = _with_id(decode(decode_change, raw), header_id)
        for field in _register_fields(change):
            if not getattr(change, field):
                shown = "order" if field == "order_number" else field
                raise InvalidRequest(
                    f"the register needs {shown}", code="missing_field", field=shown
                )
        if isinstance(change, SetBuffering):
            _check_buffering(change)
        if isinstance(change, SetCreditLimit):
            _check_credit_limit(change)
        if isinstance(change, SetPaymentStatus):
            _check_payment_status(change)
        for business_type in _business_types(change):
            if business_type not in self._types:
                raise InvalidRequest(
                    f"no business type {business_type!r}", code="unknown_business_type"
                )
        return _submission(change, book_id, principal, account)


def _with_id(request: Request, header_id: bytes | None) -> Request:
    """Give the request its operation id, from the body or the Idempotency-Key header."""
    given = request.operation_id
    if header_id is not None:
        try:
            text = header_id.decode("ascii")
        except UnicodeDecodeError:
            text = ""
        if not text.isprintable() or not 1 <= len(text) <= OPERATION_ID_CHARS_MAX:
            raise InvalidRequest(
                f"Idempotency-Key has 1 to {OPERATION_ID_CHARS_MAX} printable ASCII characters",
                code="invalid_operation_id",
            )
        if given is not None and given != text:
            raise InvalidRequest(
                "operation_id and Idempotency-Key differ", code="operation_id_mismatch"
            )
        if given is None:
            request = msgspec.structs.replace(request, operation_id=text)
            given = text
    if given is None:
        raise OperationIdMissing("give operation_id or the Idempotency-Key header")
    try:
        check_operation_id(given)
    except InvalidRequest as error:
        raise InvalidRequest(error.detail, code="invalid_operation_id") from None
    return request


def _submission(
    body: Operation | OpenAccount | Change,
    book_id: str,
    principal: Principal,
    account: str | None = None,
) -> Submission:
    assert body.operation_id is not None
    fingerprint = fingerprint_of(book_id, body, account)
    return Submission(book_id, principal.name, body.operation_id, fingerprint, body, account)


def _check_instant(instant: dt.datetime, leg_no: int) -> None:
    """Refuse instants that have no UTC form within the years 1 to 9999."""
    try:
        instant.astimezone(dt.UTC)
    except OverflowError:
        raise InvalidRequest(
            f"leg {leg_no}: expires_at is beyond the calendar", leg_no=leg_no, field="expires_at"
        ) from None


def _register_fields(change: Change) -> tuple[str, ...]:
    if isinstance(change, FreezeAccount | UnfreezeAccount | RegisterInquiry):
        return ("authority", "order_number", "reason")
    return ()


def _check_buffering(change: SetBuffering) -> None:
    """Refuse a bound that is too short, dates in the wrong order, a merchant without agreement."""
    if 0 < change.buffer_ms < BUFFER_MS_MIN:
        raise InvalidRequest(
            f"buffer_ms is 0 (off) or {BUFFER_MS_MIN} to {BUFFER_MS_MAX}", field="buffer_ms"
        )
    if change.buffer_ms and change.directions == "in" and not change.agreement:
        raise InvalidRequest(
            "inflows are buffered by a signed agreement", code="missing_field", field="agreement"
        )
    _check_dates(change)


def _check_credit_limit(change: SetCreditLimit) -> None:
    """Refuse dates without an agreement or an amount: they are those of a signed limit."""
    if change.valid_from is None and change.valid_to is None:
        return
    if not change.agreement:
        raise InvalidRequest(
            "the dates are those of a signed agreement", code="missing_field", field="agreement"
        )
    if change.credit_limit_minor is None:
        raise InvalidRequest("what has dates has an amount", field="credit_limit")
    _check_dates(change)


def _check_payment_status(change: SetPaymentStatus) -> None:
    """Refuse what would be kept and mean nothing: only a partial stop has types and an amount."""
    if change.payment_status == "partial_stop":
        return
    for field, given in (
        ("partial_types", change.partial_types),
        ("partial_amount", change.partial_amount_minor is not None),
    ):
        if given:
            raise InvalidRequest(f"{field} is for partial_stop only", field=field)


def _check_dates(change: SetBuffering | SetCreditLimit) -> None:
    first, last = change.valid_from, change.valid_to
    if first is not None and last is not None and last < first:
        raise InvalidRequest("valid_to is before valid_from", field="valid_to")


def _business_types(change: Change) -> tuple[str, ...]:
    if isinstance(change, SetPaymentStatus):
        return change.partial_types
    if isinstance(change, SetLimit):
        return (change.business_type,)
    return ()


def operation_id_in(raw: bytes) -> str | None:
    """Return the operation id of a line that was refused, when one can be found."""
    try:
        value: Any = msgspec.json.decode(raw, type=_Named)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = value.operation_id
    return found if isinstance(found, str) else None


class _Named(msgspec.Struct):
    operation_id: Any = None
