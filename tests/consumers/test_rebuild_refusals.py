"""When a rebuild cannot be, it says why and what to do; what only looks so is no hindrance."""

from __future__ import annotations

import random

import pytest

from consumers.consumer import Consumer
from consumers.log_rows import select_published
from consumers.rebuild import REBUILD_LOCK, drop_old_schemas, rebuild, select_old_schemas
from consumers.rebuild_rows import RebuildRefused
from ledger.statuses import apply_results_in_tx
from projections.positions import assign_lanes, select_head, select_lanes
from projections.tables import connect_to
from tests.consumers.caught_up import books, consume_log
from tests.consumers.lossy_books import consume_losing
from tests.consumers.test_buses import a_day
from tests.consumers.test_order import ShuffledBus
from tests.consumers.written_log import WrittenLog


@pytest.mark.parametrize("compare", [True, False])
def test_before_any_consumer_has_begun_there_is_nothing_to_rebuild(
    database_url: str, compare: bool
) -> None:
    """It ended with the traceback of a `min()` of nothing."""
    a_day(WrittenLog(database_url))

    with pytest.raises(RebuildRefused, match="no consumer has followed the log yet"):
        rebuild(database_url, compare=compare)

    consume_log(database_url)
    assert rebuild(database_url, compare=compare).swapped


def test_books_made_anew_from_nothing_are_rebuilt_beside_what_was_kept_before(
    database_url: str,
) -> None:
    """They begin to count their incarnations again: the name to keep them by was taken."""
    a_day(WrittenLog(database_url))
    consume_log(database_url)
    first = [rebuild(database_url).kept_schema for _ in range(2)]
    consume_losing(database_url, ())
    before = books(database_url)

    again = [rebuild(database_url).kept_schema for _ in range(2)]

    assert books(database_url) == before
    with connect_to(database_url) as conn:
        assert select_old_schemas(conn) == [*first, *again]
        assert drop_old_schemas(conn, [str(again[0])]) == [again[0]]
    assert rebuild(database_url).swapped


def test_another_rebuild_is_named_by_its_server_process(database_url: str) -> None:
    a_day(WrittenLog(database_url))
    consume_log(database_url)
    with connect_to(database_url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (REBUILD_LOCK,))
        pid = other.info.backend_pid

        with pytest.raises(
            RebuildRefused, match=f"another rebuild is running .server process {pid}"
        ):
            rebuild(database_url)

    assert rebuild(database_url).swapped


def test_what_other_lanes_had_handled_is_no_difference(database_url: str) -> None:
    """Lanes of another number begin where the one behind stood: the books are ahead of them."""
    a_day(WrittenLog(database_url))
    with connect_to(database_url) as conn:
        head = select_head(conn)
        rows = select_published(conn, 0, head)
        chance = random.Random(3)
        consumer = Consumer(
            conn, ShuffledBus(rows, head, 2, chance), deliver_in_tx=apply_results_in_tx
        )
        while not (ahead := _ahead(database_url)):
            assert consumer.step()
        assign_lanes(conn, 3)

        with pytest.raises(RebuildRefused, match=f"have passed position {ahead}"):
            rebuild(database_url)

        consumer = Consumer(
            conn, ShuffledBus(rows, head, 3, chance), deliver_in_tx=apply_results_in_tx
        )
        while consumer.step():
            pass
        consumer.perform_due()
    report = rebuild(database_url)
    assert report.difference is None
    assert report.swapped


def _ahead(database_url: str) -> int:
    """The last operation that a lane has handled beyond the other one; 0 while there is none."""
    with connect_to(database_url) as conn:
        visible = min((lane.position for lane in select_lanes(conn)), default=0)
        query = "SELECT coalesce(max(position), 0) FROM outcomes WHERE position > %s"
        row = conn.execute(query, (visible,)).fetchone()
    return int(row[0]) if row else 0
