"""Load for the tests of this folder: recharges by many callers, and what was acknowledged.

`Load.run` posts until it is told to stop; callers ask again under the same operation id while the
server says "later" or hangs up, as a gateway does.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import msgspec
import psycopg

from infra.client import DaybookClient
from infra.http_load import Reply, Request, run_callers
from infra.settings import Settings

SELECT_TIMES_BOOKED = """
    SELECT convert_from(state, 'UTF8')::json ->> 'operation_id', count(*)
    FROM ledger.stored_events WHERE topic = 'ledger.recorded:OperationBooked'
    GROUP BY 1
"""


class Served(Protocol):
    """A system that serves somewhere."""

    settings: Settings

    @property
    def url(self) -> str: ...

    @property
    def key(self) -> str: ...


def client_of(system: Served, *, patience_s: float = 60) -> DaybookClient:
    return DaybookClient(
        system.url, key=system.key, book=system.settings.book, patience_s=patience_s
    )


def open_customer(system: Served, number: str = "C-1") -> None:
    open_accounts(system, customers=[number])


def open_accounts(
    system: Served, *, customers: Sequence[str] = (), merchants: Sequence[str] = ()
) -> None:
    with client_of(system) as client:
        for kind, subject, numbers in (
            ("customer", "2001.01", customers),
            ("merchant", "2002.01", merchants),
        ):
            for number in numbers:
                client.post("/v1/accounts", opening(number, kind, subject))


def opening(number: str, kind: str, subject: str) -> dict[str, object]:
    return {
        "operation_id": f"open-{number}",
        "account": number,
        "owner": "U-1",
        "type": kind,
        "subject": subject,
        "currency": "CNY",
    }


def recharge(
    operation_id: str, account: str = "C-1", amount_minor: int = 100_00
) -> dict[str, object]:
    return {
        "operation_id": operation_id,
        "business_type": "recharge",
        "legs": [{"kind": "credit", "account": account, "amount": amount_minor, "currency": "CNY"}],
        "amounts": {"fee": 60},
    }


@dataclass
class Load:
    """Callers in a thread of their own; `acknowledged` are operation ids answered with 201."""

    system: Served
    callers: int = 8
    patience_s: float = 90
    acknowledged: list[str] = field(default_factory=list)
    other: list[tuple[int, bytes]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._post, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    def _post(self) -> None:
        try:
            asyncio.run(self._post_until_stopped())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    async def _post_until_stopped(self) -> None:
        system = self.system
        headers = {"Authorization": f"Bearer {system.key}", "Daybook-Book": system.settings.book}
        await run_callers(
            self._requests(),
            url=system.url,
            headers=headers,
            callers=self.callers,
            on_reply=self._note,
            patience_s=self.patience_s,
        )

    def _requests(self) -> Iterator[Request]:
        for number in itertools.count(1):
            if self.stop.is_set():
                return
            body = msgspec.json.encode(recharge(f"load-{number}", amount_minor=number))
            yield Request("POST", "/v1/operations", body, key=number)

    def _note(self, request: Request, reply: Reply) -> None:
        if reply.status == 201:
            self.acknowledged.append(f"load-{request.key}")
        else:
            self.other.append((reply.status, reply.body))


def times_booked(database_url: str) -> dict[str, int]:
    """How often each operation id stands in the log as booked."""
    with psycopg.connect(database_url) as conn:
        return dict(conn.execute(SELECT_TIMES_BOOKED).fetchall())
