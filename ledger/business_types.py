"""Business types as the ledger sees them: which rules of booking apply to an operation.

The registry is a data file, `business_types.toml`; a deployment may name its own. Invariant:
an operation of an undeclared type is refused before it is decided.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

SHIPPED = Path(__file__).with_name("business_types.toml")
Stage = Literal["held", "sent", "succeeded", "settled", "failed"]

# Rule: a payout's hold stays until its outcome is known.
STAGE_AFTER: dict[Stage, frozenset[Stage | None]] = {
    "held": frozenset({None}),
    "sent": frozenset({"held"}),
    "succeeded": frozenset({"held", "sent"}),
    "settled": frozenset({"succeeded"}),
    "failed": frozenset({"held", "sent"}),
}


class BusinessType(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One business type; fields are explained at the top of `business_types.toml`."""

    code: str = ""
    must_book: bool = False
    refund: bool = False
    correction: bool = False
    history: bool = False
    internal: bool = False
    returns_money: bool = False
    distinct_accounts: bool = False
    stage: Stage | None = None
    when_busy: Literal["fail", "retry"] = "retry"


class BusinessTypes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The registry: type by code, and the subject of the suspense accounts."""

    suspense_subject: str
    types: dict[str, BusinessType]


@lru_cache(maxsize=8)
def load_business_types(path: Path = SHIPPED) -> BusinessTypes:
    """Read and check a registry file. Raises `msgspec.ValidationError` for an unknown field."""
    registry = msgspec.convert(tomllib.loads(path.read_text("utf-8")), type=BusinessTypes)
    named = {
        code: msgspec.structs.replace(kind, code=code) for code, kind in registry.types.items()
    }
    return msgspec.structs.replace(registry, types=named)
