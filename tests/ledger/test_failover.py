"""An address with several hosts is tried host by host; faults/test_failover.py loses real ones."""

from __future__ import annotations

import psycopg
import pytest

from ledger.failover import CommittingConnection, hosts_of


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("postgresql://u@one/daybook", [{"host": "one"}]),
        ("dbname=daybook", []),
        (
            "postgresql://u@a:1,b:2/daybook",
            [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}],
        ),
        ("host=a,b port=5", [{"host": "a", "port": "5"}, {"host": "b", "port": "5"}]),
        ("hostaddr=127.0.0.1,::1", [{"hostaddr": "127.0.0.1"}, {"hostaddr": "::1"}]),
    ],
)
def test_an_address_names_its_hosts_in_order(address: str, hosts: list[dict[str, str]]) -> None:
    assert hosts_of(address) == hosts


def test_a_host_that_is_away_is_passed_by(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        socket, name = conn.info.host, conn.info.dbname
    address = f"host=/nowhere,{socket} user=postgres dbname={name}"

    with CommittingConnection.connect(address, autocommit=True) as conn:
        assert conn.info.host == socket

    with pytest.raises(psycopg.OperationalError, match=r"/nowhere(.|\n)*/neither"):
        CommittingConnection.connect("host=/nowhere,/neither user=postgres", autocommit=True)
