"""Who calls: API keys, their scopes, and a short memory of them.

A key is 256 random bits; only its SHA-256 is stored. Invariant: every request has a
principal, and a revoked key is refused everywhere within `MEMORY_S`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from psycopg import Connection

from ledger.errors import InvalidRequest, NotAuthenticated, NotPermitted

KEY_PREFIX = "dbk_"
LOCAL_PRINCIPAL = "local"
LOCAL_KEY_LOCK = 1_145_393_476
MEMORY_S = 5.0
MEMORY_SIZE_MAX = 10_000

# scope: what it permits
SCOPES: dict[str, str] = {
    "read": "read accounts, operations and books",
    "post": "post operations",
    "accounts": "open accounts and change their standing",
    "import": "post history with its own dates",
    "day": "move the open business date, cut days, propose to close and reopen periods",
    "admin": "open books, make and revoke keys",
    "rules": "publish charts and posting rules; includes repair and approve",
    "repair": "retry what is parked, propose overrides, set messages aside",
    "approve": "approve or reject what another principal has proposed",
    "audit": "verify, replay and export",
}
# scope: what else it permits, so that a key made before these scopes keeps its rights
INCLUDED: dict[str, frozenset[str]] = {"rules": frozenset({"repair", "approve"})}

INSERT_KEY = """
    INSERT INTO ledger.api_keys (key_hash, principal, scopes, book_id) VALUES (%s, %s, %s, %s)
"""
SELECT_KEY = """
    SELECT principal, scopes, book_id, revoked_at IS NOT NULL
    FROM ledger.api_keys WHERE key_hash = %s
"""
SELECT_KEYS = """
    SELECT encode(key_hash, 'hex'), principal, scopes, book_id, created_at, revoked_at
    FROM ledger.api_keys ORDER BY created_at, key_hash
"""
REVOKE_KEYS = """
    UPDATE ledger.api_keys SET revoked_at = now() WHERE principal = %s AND revoked_at IS NULL
"""


class Principal(msgspec.Struct, frozen=True):
    """An authenticated caller; `book_id` is set when the key is for one book only."""

    name: str
    scopes: frozenset[str]
    book_id: str | None = None

    def require(self, scope: str) -> None:
        """Raise `NotPermitted` unless the key has the scope."""
        if scope not in self.scopes:
            raise NotPermitted(f"this needs a key with scope {scope!r}: {SCOPES[scope]}")

    def require_book(self, book_id: str) -> None:
        """Raise `NotPermitted` when the key is for another book."""
        if self.book_id is not None and self.book_id != book_id:
            raise NotPermitted(f"this key is for book {self.book_id!r} only")

    def require_every_book(self) -> None:
        """Raise `NotPermitted` when the key is for one book: what is asked belongs to none."""
        if self.book_id is not None:
            raise NotPermitted(f"this needs a key for every book, not for {self.book_id!r} only")


def key_hash(key: str | bytes) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key if isinstance(key, bytes) else key.encode()).digest()


def create_key(
    conn: Connection[Any], principal: str, scopes: Iterable[str], book_id: str | None = None
) -> str:
    """Make a key for a principal and return it; it is shown this once."""
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise InvalidRequest(f"scopes are {', '.join(SCOPES)}; not {', '.join(unknown)}")
    if not 1 <= len(principal) <= 64 or not principal.isprintable():
        raise InvalidRequest("a principal's name has 1 to 64 printable characters")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    with conn.transaction():
        conn.execute(INSERT_KEY, (key_hash(key), principal, wanted, book_id))
    return key


def select_principal(conn: Connection[Any], hashed: bytes) -> Principal | None:
    """Return the principal of a key's hash, None for an unknown or revoked key."""
    row = conn.execute(SELECT_KEY, (hashed,)).fetchone()
    if row is None or row[3]:
        return None
    included = (INCLUDED.get(scope, frozenset()) for scope in row[1])
    return Principal(row[0], frozenset(row[1]).union(*included), row[2])


def revoke_keys(conn: Connection[Any], principal: str) -> int:
    """Revoke every key of a principal; return how many that were."""
    with conn.transaction():
        return conn.execute(REVOKE_KEYS, (principal,)).rowcount


def ensure_local_key(conn: Connection[Any], path: Path) -> str:
    """Return this machine's key with every scope; make it, mode 0600, when there is none.

    Safe in several processes at once: one of them makes it, under a lock of the database.
    """
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s, 0)", (LOCAL_KEY_LOCK,))
        if path.exists():
            key = path.read_text("ascii").strip()
            if select_principal(conn, key_hash(key)) is not None:
                return key
        key = create_key(conn, LOCAL_PRINCIPAL, SCOPES)
        _write_private(path, key + "\n")
    return key


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    draft.replace(path)


class Keyring:
    """A short memory of keys by header bytes, so that most calls ask no database.

    `look_up` finds a principal by the key's hash. Unknown keys are never remembered.
    """

    def __init__(
        self,
        look_up: Callable[[bytes], Awaitable[Principal | None]],
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._steady = steady
        self._known: dict[bytes, tuple[Principal, float]] = {}

    def remembered(self, authorization: bytes) -> Principal | None:
        """Return the principal of a header seen within the last seconds."""
        known = self._known.get(authorization)
        if known is None or known[1] < self._steady():
            return None
        return known[0]

    async def principal(self, authorization: bytes) -> Principal:
        """Return the caller. Raises `NotAuthenticated`."""
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not key:
            raise NotAuthenticated("send Authorization: Bearer KEY")
        found = await self._look_up(key_hash(key.strip()))
        if found is None:
            self._known.pop(authorization, None)
            raise NotAuthenticated("this key is unknown or revoked")
        if len(self._known) >= MEMORY_SIZE_MAX:
            self._known.clear()
        self._known[authorization] = (found, self._steady() + MEMORY_S)
        return found
