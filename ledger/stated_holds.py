"""The holds of a batch that is one trip to the server: those that are gone, and those that are new.

They follow `ledger.append_batch` in its transaction. Invariant: nothing is changed unless that has
written the batch's seal, which under the log's lock nobody else can have done.
"""

from __future__ import annotations

from collections.abc import Mapping

from ledger.account import Account, Hold
from ledger.arrays import int8_array, text_array, uuid_array
from ledger.codec import account_stream
from ledger.log import Sealed

_BYTEA, _INT8, _UUIDS, _INT8S, _TEXTS = 17, 20, 2951, 1016, 1009
TYPES = (
    *(_INT8, _BYTEA),
    *(_UUIDS, _INT8S),
    *(_UUIDS, _TEXTS),
    *(_UUIDS, _TEXTS, _INT8S, _TEXTS, _INT8S, _TEXTS),
)
APPLY_HOLDS = """
    WITH ours AS MATERIALIZED (
        SELECT FROM ledger.seals WHERE first_id = $1 AND seal = $2
    ), counted AS (
        UPDATE ledger.accounts AS a SET holds_open = u.holds_open
        FROM ours, unnest($3, $4) AS u (account_id, holds_open)
        WHERE a.account_id = u.account_id
    ), gone AS (
        DELETE FROM ledger.holds AS h
        USING ours, unnest($5, $6) AS u (account_id, hold_id)
        WHERE h.account_id = u.account_id AND h.hold_id = u.hold_id
    )
    INSERT INTO ledger.holds (account_id, hold_id, amount, operation_id, payout, expires_at)
    SELECT u.account_id, u.hold_id, u.amount, u.operation_id, u.payout = 1, NULLIF(u.expires_at, '')
    FROM ours, unnest($7, $8, $9, $10, $11, $12)
        AS u (account_id, hold_id, amount, operation_id, payout, expires_at)
    ON CONFLICT ON CONSTRAINT holds_pkey DO UPDATE SET
        amount = excluded.amount, operation_id = excluded.operation_id,
        payout = excluded.payout, expires_at = excluded.expires_at
"""


def holds_values(
    before: Mapping[str, Account | None], after: Mapping[str, Account], sealed: Sealed
) -> list[bytes | None]:
    """Return the parameters of APPLY_HOLDS in binary formats; nothing when no hold changed."""
    changed: list[Account] = []
    gone: list[tuple[bytes, str]] = []
    written: list[tuple[bytes, str, Hold]] = []
    for number, account in after.items():
        old = before[number]
        if old is None or old.holds is account.holds:
            continue
        stream = account_stream(account.book_id, number)
        changed.append(account)
        gone += [(stream, name) for name in old.holds if name not in account.holds]
        written += [
            (stream, name, hold)
            for name, hold in account.holds.items()
            if old.holds.get(name) != hold
        ]
    if not changed:
        return []
    arrays = (
        uuid_array([account_stream(a.book_id, a.number) for a in changed]),
        int8_array([len(account.holds) for account in changed]),
        uuid_array([stream for stream, _ in gone]),
        text_array([name.encode() for _, name in gone]),
        uuid_array([stream for stream, _, _ in written]),
        text_array([name.encode() for _, name, _ in written]),
        int8_array([hold.amount_minor for _, _, hold in written]),
        text_array([hold.operation_id.encode() for _, _, hold in written]),
        int8_array([int(hold.payout) for _, _, hold in written]),
        text_array([(hold.expires_at or "").encode() for _, _, hold in written]),
    )
    first_id = sealed.seal.first_id.to_bytes(8, "big", signed=True)
    return [first_id, sealed.seal.seal, *(array.data for array in arrays)]
