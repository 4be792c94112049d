"""What can be asked for among parked operations: the reasons there are, and no misspelt ones.

A filter that means nothing finds nothing, and "nothing is parked" is what an operator wants to
hear; so a filter with a reason or business type that does not exist, or whose last date comes
before its first, is refused. Invariant: every reason that the books can have is named here.
"""

from __future__ import annotations

from functools import cache

from accounting.rules import ParkedReason
from ledger.business_types import load_business_types
from ledger.errors import InvalidRequest

REFUSED_BY_DATABASE = "refused_by_database"
UNKNOWN_RULESET = "unknown_ruleset"
OVERRIDE_REFUSED = "override_refused"
BEHIND_ORIGINAL = "behind_original"
REASONS = (
    *(reason.value for reason in ParkedReason),
    REFUSED_BY_DATABASE,
    UNKNOWN_RULESET,
    OVERRIDE_REFUSED,
    BEHIND_ORIGINAL,
)


def require_meant(
    reason: str | None, business_type: str | None, from_date: str | None, to_date: str | None
) -> None:
    """Raise InvalidRequest (`invalid_parameter`, with `field`) for what cannot be meant."""
    if reason is not None and reason not in REASONS:
        _refuse("reason", f"no reason {reason!r}: there are {', '.join(REASONS)}")
    if business_type is not None and business_type not in _business_types():
        _refuse("business_type", f"no business type {business_type!r}")
    if from_date is not None and to_date is not None and to_date < from_date:
        _refuse("to", f"the last date {to_date} comes before the first, {from_date}")


@cache
def _business_types() -> frozenset[str]:
    return frozenset(load_business_types().types)


def _refuse(name: str, detail: str) -> None:
    raise InvalidRequest(detail, code="invalid_parameter", field=name)
