"""Every list over HTTP has a total order, also when nothing but its key tells its rows apart.

Each list is filled with rows of one instant (and one date, where the list has one), walked page
by page and compared with itself read whole. A list that joins the OpenAPI document without a case
here fails this page; so does a read of the books that does not wait when it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from accounting.decided import GivenLine
from accounting.decisions import AccountingDecisions
from infra.postgres import EmbeddedPostgres
from ledger.events import Issue, OrderNumbers
from projections.tables import connect_to
from tests.consumers.caught_up import consume_log
from tests.consumers.test_outcomes import payment, rules_without
from tests.consumers.written_log import BOOK, WrittenLog
from tests.fix_api import ApiCaller, api_over, leg, operation
from tests.fix_postgres import fresh_database

INSTANT = "2026-01-31T08:00:00Z"
ROWS = 5
# The list as the document names it: what to read, and the key that its order ends in.
PAGED = {
    "/v1/accounts": ("/v1/accounts", ("account",)),
    "/v1/accounts/{number}/events": ("/v1/accounts/A-1/events", ("version",)),
    "/v1/accounts/{number}/register": ("/v1/accounts/A-1/register", ("version",)),
    "/v1/accounts/{number}/days": ("/v1/accounts/C-1/days", ("business_date", "currency")),
    "/v1/vouchers": ("/v1/vouchers", ("accounting_date", "position", "ordinal")),
    "/v1/orders/{order_number}": ("/v1/orders/T-1", ("position", "kind")),
    "/v1/parked": ("/v1/parked", ("position",)),
    "/v1/issues": ("/v1/issues", ("position", "issue_no")),
    "/v1/overrides": ("/v1/overrides", ("note",)),
    "/v1/set-asides": ("/v1/set-asides", ("position",)),
}
LATEST_FIRST = {
    "/v1/sweeps": ("/v1/sweeps", ("sweep_id",)),
    "/v1/day-cuts": ("/v1/day-cuts", ("position",)),
    "/v1/period-changes": ("/v1/period-changes", ("position",)),
}
WHOLE = {
    "/v1/books": ("/v1/books", ("book_id",)),
    "/v1/gl-balances": ("/v1/gl-balances", ("subject", "currency", "accounting_date")),
    "/v1/positions": ("/v1/positions", ("lane",)),
    "/v1/rulesets": ("/v1/rulesets", ("position",)),
    "/v1/accounts/{number}/holds": ("/v1/accounts/A-2/holds", ("hold_id",)),
    "/v1/accounts/{number}/freezes": ("/v1/accounts/A-2/freezes", ("freeze_id",)),
}
SINGLE = {
    "/v1/vouchers/{voucher_id}": "/v1/vouchers/one-1/1",
    "/v1/trial-balance": "/v1/trial-balance",
    "/v1/identity": "/v1/identity",
    "/v1/repairs/{position}": "/v1/repairs/1",
    "/v1/overrides/{override_id}": "/v1/overrides/00000000-0000-0000-0000-000000000007",
}
ROWS_OF_ONE_INSTANT = """
    INSERT INTO day_cuts (position, book_id, cut_date, open_date, parked, operations,
                          operation_ids, maker, note, performed)
    SELECT no, 'main', date '2026-01-31', date '2026-02-01', '[]', 0, '{}', 'ann', '', true
    FROM generate_series(1, 5) no;
    INSERT INTO period_changes (position, book_id, change_id, step, period_date, maker, note)
    SELECT no, 'main', '00000000-0000-4000-8000-00000000000' || no, 'close_proposed',
           date '2026-01-31', 'ann', ''
    FROM generate_series(1, 5) no;
    INSERT INTO set_asides (position, topic, partition, at_offset, raw, reason, maker)
    SELECT no, 't', 0, 7, convert_to('?', 'UTF8'), 'foreign', 'ann' FROM generate_series(1, 5) no;
    INSERT INTO ledger.sweeps (trigger, incarnation, after_position, through_position, reached)
    SELECT 'command', 1, 0, 1, 1 FROM generate_series(1, 5);
    UPDATE ledger.sweeps SET started_at = '2026-01-31 08:00:00Z', finished_at = started_at;
    SET session_replication_role = replica;
    UPDATE ledger.seals SET booked_at = '2026-01-31 08:00:00Z';
"""


@pytest.fixture(scope="module")
def api(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ApiCaller]:
    """An application over lists of several rows each, of one instant, and one late operation."""
    with (
        fresh_database(postgres_server, template_database) as url,
        api_over(url, tmp_path_factory.mktemp("home")) as caller,
    ):
        fill(caller, url)
        yield caller


def fill(caller: ApiCaller, database_url: str) -> None:
    """Give every list its rows; `late` is booked when the consumers have gone home."""
    post_on_accounts(caller)
    written = WrittenLog(database_url)
    written.publish(rules_without("payment"))
    written.publish()
    written.publish(rules_without("payment"))
    orders = OrderNumbers("T-1", "T-1", ("T-1",))
    issues = tuple(
        Issue("redirected", no, "S-1", "C-1", 5, "CNY", "account_closed") for no in (2, 1, 3)
    )
    numbers = range(1, ROWS + 1)
    written.commit(
        *(written.recharge(f"one-{no}", orders=orders, issues=issues) for no in numbers),
        *(payment(written, f"p-{no}") for no in numbers),
        *(written.recharge(f"day-{no}", day=f"2026-02-0{no}") for no in numbers),
    )
    consume_log(database_url)
    for no in numbers:
        written.decide(lambda decisions, no=no: propose(decisions, no))
    consume_log(database_url)
    with connect_to(database_url) as conn:
        conn.execute(ROWS_OF_ONE_INSTANT)
    written.commit(written.recharge("late"))


def propose(decisions: AccountingDecisions, no: int) -> object:
    """Propose an override of a parked payment; its note is its place in the log."""
    lines = (
        GivenLine("debit", "2001.01", "CNY", 990, "C-1"),
        GivenLine("credit", "5001.01", "CNY", 990),
    )
    return decisions.propose_override(
        BOOK, f"p-{6 - no}", lines, accounting_date="2026-01-31", maker="ann", note=str(no)
    )


def post_on_accounts(caller: ApiCaller) -> None:
    """Give `A-1` a history and `A-2` holds and freezes; open a few accounts and books beside."""
    caller.open("A-2", "A-1", "A-4", "A-3")
    for book in ("b", "a"):
        body = {"book_id": book, "name": "One name", "open_business_date": "2026-01-31"}
        assert caller.post("/v1/books", body).status_code == 201
    for number in ("A-1", "A-1", "A-2"):
        caller.credit(number, 100)
    for no in (3, 1, 2):
        held = leg("hold", "A-2", 1, hold_id=f"h-{no}")
        body = operation(f"h-{no}", held, business_type="hold")
        assert caller.post("/v1/operations", body).status_code == 201
    for no in (3, 1, 2):
        order = {"authority": "court", "order": "o", "reason": "r"}
        change = {"operation_id": f"f-{no}", "command": "freeze", "freeze_id": f"f-{no}", **order}
        assert caller.post("/v1/accounts/A-2/commands", change).status_code == 200
        inquiry = {"operation_id": f"i-{no}", "command": "court_inquiry", **order}
        assert caller.post("/v1/accounts/A-1/commands", inquiry).status_code == 200


def key_of(row: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    """Return the key that a list's order ends in."""
    return tuple(row[name] for name in names)


def rows_of(answer: httpx.Response) -> tuple[list[dict[str, Any]], str | None]:
    """Return the rows of a list and the cursor behind them, of whichever room it is."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    found = body.get("data", body)
    if isinstance(found, list):
        return found, None
    rows = found["items"] if "items" in found else found["changes"]
    return rows, found.get("next_cursor")


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize(("path", "key"), [*PAGED.values(), *LATEST_FIRST.values()])
def test_a_list_walked_page_by_page_is_the_list_read_whole(
    api: ApiCaller, path: str, key: tuple[str, ...], limit: int
) -> None:
    whole, rest = rows_of(api.get(path))
    assert rest is None
    assert len(whole) >= 3

    walked: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page, behind = rows_of(api.get(path, limit=limit, **cursor))
        assert len(page) <= limit
        walked += page
        if behind is None:
            break
        cursor = {"cursor": behind}

    assert [key_of(row, key) for row in walked] == [key_of(row, key) for row in whole]


@pytest.mark.parametrize(("path", "key"), [*PAGED.values(), *WHOLE.values()])
def test_a_list_is_in_the_order_of_a_unique_key(
    api: ApiCaller, path: str, key: tuple[str, ...]
) -> None:
    keys = [key_of(row, key) for row in rows_of(api.get(path))[0]]

    assert keys == sorted(set(keys))


@pytest.mark.parametrize(("path", "key"), LATEST_FIRST.values())
def test_a_list_of_what_was_done_is_in_the_order_of_a_unique_key_the_last_first(
    api: ApiCaller, path: str, key: tuple[str, ...]
) -> None:
    keys = [key_of(row, key) for row in rows_of(api.get(path))[0]]

    assert keys == sorted(set(keys), reverse=True)


@pytest.mark.parametrize(
    ("path", "instant"),
    [
        ("/v1/parked", "booked_at"),
        ("/v1/overrides", "proposed_at"),
        ("/v1/sweeps", "started_at"),
        ("/v1/day-cuts", "booked_at"),
        ("/v1/period-changes", "booked_at"),
    ],
)
def test_the_rows_of_these_lists_do_have_one_instant(
    api: ApiCaller, path: str, instant: str
) -> None:
    assert len({row[instant] for row in rows_of(api.get(path))[0]}) == 1


def reads_of(api: ApiCaller) -> dict[str, dict[str, Any]]:
    """Return every documented read with its parameters."""
    paths = api.get("/openapi.json").json()["paths"]
    return {path: methods["get"] for path, methods in paths.items() if "get" in methods}


def addresses_of_books(api: ApiCaller) -> dict[str, str]:
    """Return an address for every documented read of the books."""
    lists = {path: address for path, (address, _) in {**PAGED, **LATEST_FIRST, **WHOLE}.items()}
    rooms = {"books", "repair", "periods"}
    return {
        path: {**lists, **SINGLE}[path]
        for path, read in reads_of(api).items()
        if not rooms.isdisjoint(read["tags"]) and path.count("/v1/books") == 0
    }


def test_every_list_of_the_document_has_its_case_here(api: ApiCaller) -> None:
    with_cursor = {
        path
        for path, read in reads_of(api).items()
        if any(each.get("name") == "cursor" for each in read.get("parameters", ()))
    }

    assert with_cursor == PAGED.keys() | LATEST_FIRST.keys()


def test_every_read_of_the_books_waits_for_a_position_and_for_an_operation(
    api: ApiCaller, subtests: pytest.Subtests
) -> None:
    late = api.position()
    addresses = addresses_of_books(api)
    assert len(addresses) >= 18
    for path, address in addresses.items():
        for wanted in ({"operation_id": "late"}, {"min_position": late}):
            with subtests.test(path=path, wanted=wanted):
                answer = api.get(address, **wanted, wait_s=0)

                assert (answer.status_code, answer.json()["code"]) == (503, "not_visible_yet")
                assert int(answer.headers["retry-after"]) >= 1


def test_every_read_refuses_a_parameter_that_it_does_not_declare_or_has_twice(
    api: ApiCaller, subtests: pytest.Subtests
) -> None:
    """Regression: the books took a misspelt `min_position` for none, and answered too early."""
    for path, address in addresses_of_books(api).items():
        for name, value in (("min_positon", 9), ("wait_s", [0, 1])):
            with subtests.test(path=path, name=name):
                answer = api.get(address, **{name: value})

                assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
                assert answer.json()["field"] == name
