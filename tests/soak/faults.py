"""What a round does to the system while callers post: kills, cuts, restarts, repairs, rebuilds.

Invariant: nothing here helps the system up again but what it has itself: its supervisor, its
retries, and for a crashed database the start of the database.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from consumers import repair
from consumers.rebuild import drop_old_schemas, rebuild
from consumers.sweeps import Sweeper, deliver_on
from infra.decision_log import decision_log
from infra.postgres import EmbeddedPostgres
from projections.parked import ParkedFilter
from projections.tables import connect_to
from tests.faults.scene import Scene
from tests.soak.comparison import Differs, assert_audited
from tests.soak.model import BOOK
from tests.waiting import wait_until

TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
STILL_S = 0.5


@dataclass
class Place:
    """Where a fault happens: the system, its database server, what is parked by now."""

    scene: Scene
    server: EmbeddedPostgres
    parked: list[str]


def kill(part: str) -> Callable[[Place], None]:
    """kill -9 of a part; the supervisor starts another one."""

    def act(place: Place) -> None:
        place.scene.start_soon()
        with suppress(ProcessLookupError, KeyError):
            os.kill(place.scene.children[part], signal.SIGKILL)

    return act


def kill_at(step: str) -> Callable[[Place], None]:
    """kill -9 of whichever process reaches the step next."""

    def act(place: Place) -> None:
        place.scene.start_soon()
        place.scene.arm(step)
        wait_until(place.scene.was_taken, f"somebody reaches {step}")

    return act


def restart_every_part(place: Place) -> None:
    """SIGTERM to every part at once: each drains and is started again."""
    place.scene.start_soon()
    for pid in place.scene.children.values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def hold_still(place: Place) -> None:
    """SIGSTOP of the consumer for a while."""
    pid = place.scene.children["consumer"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STILL_S)
    os.kill(pid, signal.SIGCONT)


def cut_connections(place: Place) -> None:
    """The database ends every connection."""
    with psycopg.connect(place.scene.database_url, autocommit=True) as conn:
        conn.execute(TERMINATE)


def crash_database(place: Place) -> None:
    """The database is killed and started again."""
    place.server.crash()
    place.server.start()


def retry_parked(place: Place) -> None:
    """An operator repairs what was parked when the round began."""
    if not place.parked:
        return
    url = place.scene.database_url
    wanted = ParkedFilter(operation_ids=tuple(place.parked))
    with connect_to(url) as conn, decision_log(url) as decisions:
        report = repair.retry(conn, decisions, BOOK, wanted, maker="soak", note="soak")
    if not report.performed:
        raise Differs(f"no consumer performed the orders {report.orders}")


def rebuild_books(place: Place) -> None:
    """The books are made again from the log, compared, and swapped in."""
    report = rebuild(place.scene.database_url)
    if report.difference is not None or not report.swapped:
        raise Differs(f"rebuilt books differ: {report.difference}")
    with connect_to(place.scene.database_url) as conn:
        drop_old_schemas(conn)


def audit_meanwhile(place: Place) -> None:
    """An auditor verifies while callers post."""
    assert_audited(place.scene.database_url)


def sweep_meanwhile(place: Place) -> None:
    """A sweep compares the log with the books while callers post: nothing is missing."""
    url, bus = place.scene.database_url, place.scene.settings.bus
    with connect_to(url) as conn, connect_to(url) as beside:
        swept = Sweeper(conn, beside=beside, deliver_in_tx=deliver_on(bus)).by_command()
    if swept.found:
        raise Differs(f"a sweep found {swept.differences}")


FAULTS: dict[str, Callable[[Place], None]] = {
    "nothing": lambda _place: None,
    "kill -9 of an API process": kill("api-1"),
    "kill -9 of the other API process": kill("api-2"),
    "kill -9 of the consumer": kill("consumer"),
    "kill -9 before the engine's insert": kill_at("engine.before_insert"),
    "kill -9 before the engine's commit": kill_at("engine.before_commit"),
    "kill -9 after the engine's commit": kill_at("engine.after_commit"),
    "kill -9 inside the consumer's transaction": kill_at("handled"),
    "kill -9 after the consumer's commit": kill_at("committed"),
    "the consumer stands still": hold_still,
    "every part is restarted": restart_every_part,
    "every connection is cut": cut_connections,
    "the database crashes": crash_database,
    "parked operations are repaired": retry_parked,
    "the books are rebuilt and swapped": rebuild_books,
    "an audit runs": audit_meanwhile,
    "a sweep runs": sweep_meanwhile,
}
ON_KAFKA: dict[str, Callable[[Place], None]] = {
    "kill -9 of the relay": kill("relay"),
    "kill -9 of the results consumer": kill("results"),
    "kill -9 before the relay sends": kill_at("sending"),
    "kill -9 after the relay has sent": kill_at("sent"),
}


def faults_of(bus: str) -> dict[str, Callable[[Place], None]]:
    """Return the faults of a bus by name."""
    return {**FAULTS, **ON_KAFKA} if bus == "kafka" else FAULTS
