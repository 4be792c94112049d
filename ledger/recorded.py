"""The ledger's events as the `eventsourcing` library reads them.

The engine writes structs (`ledger/events.py`); the stock Mapper, EventStore and
NotificationLog rebuild objects from the same rows through these classes, one per struct,
named by the topic `ledger.recorded:<Event>`. Invariant: every topic resolves here, and
`fact()` gives back the struct that was written.
"""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

import msgspec

from ledger import events


class RecordedEvent:
    """A row of the log as an object; attributes are the state's fields as plain JSON."""

    struct: ClassVar[type[msgspec.Struct]]
    originator_id: UUID
    originator_version: int

    def fact(self) -> Any:
        """Return the event as its struct."""
        fields = {
            name: value
            for name, value in vars(self).items()
            if name not in ("originator_id", "originator_version")
        }
        return msgspec.convert(fields, type=self.struct)


def _recorded(struct: type[msgspec.Struct]) -> type[RecordedEvent]:
    return type(
        struct.__name__,
        (RecordedEvent,),
        {"struct": struct, "__module__": __name__, "__doc__": struct.__doc__},
    )


globals().update({struct.__name__: _recorded(struct) for struct in events.LedgerEvent.__args__})
