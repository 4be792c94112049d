"""How the database's schema stands to this program: what readiness tells."""

from __future__ import annotations

import msgspec


class SchemaState(msgspec.Struct, frozen=True):
    """`usable` says whether the process may serve; `words` say why, for people."""

    usable: bool
    words: str
