"""One operation by a caller without patience, on an account that belongs to no load."""

from __future__ import annotations

import itertools

import httpx

from tests.e2e.load import Served, open_customer, recharge

ACCOUNT = "PROBE-1"
_numbers = itertools.count(1)


def open_probe(served: Served) -> None:
    """Open the account."""
    open_customer(served, ACCOUNT)


def probe(served: Served) -> httpx.Response:
    """Post a new operation once and return what came back."""
    return httpx.post(
        f"{served.url}/v1/operations",
        json=recharge(f"probe-{next(_numbers)}", ACCOUNT),
        headers=key_of(served),
        timeout=60,
    )


def read_probe(served: Served) -> httpx.Response:
    """Read the account."""
    return httpx.get(f"{served.url}/v1/accounts/{ACCOUNT}", headers=key_of(served), timeout=60)


def key_of(served: Served) -> dict[str, str]:
    """The headers of somebody who may do everything."""
    return {"Authorization": f"Bearer {served.key}"}
