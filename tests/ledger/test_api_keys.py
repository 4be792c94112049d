"""Who may call: keys, scopes, books, revocation, and this machine's own key."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from ledger.errors import InvalidRequest
from ledger.principals import (
    SCOPES,
    Keyring,
    Principal,
    create_key,
    ensure_local_key,
    key_hash,
    revoke_keys,
    select_principal,
)
from tests.fix_api import ApiCaller, account, credit, operation

OPERATIONS = "/v1/operations"


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz", "dbk_nothing", "Bearer \xe9"],
)
def test_without_a_known_key_nothing_is_done(
    shared_api: ApiCaller, authorization: str | None
) -> None:
    api = shared_api
    position = api.position()
    headers = [] if authorization is None else [(b"Authorization", authorization.encode("latin-1"))]

    for path in ("/v1/operations", "/v1/accounts", "/v1/nothing", "/openapi.json", "/metrics"):
        answer = api.http.post(path, content=b"{}", headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert api.position() == position


@pytest.mark.parametrize(
    ("method", "path", "body", "scope"),
    [
        ("POST", "/v1/operations", operation("x", credit("C-1", 1)), "post"),
        ("POST", "/v1/accounts", account("C-9"), "accounts"),
        ("POST", "/v1/accounts:batch", [account("C-9")], "accounts"),
        (
            "POST",
            "/v1/accounts/C-1/commands",
            {"operation_id": "x", "command": "close"},
            "accounts",
        ),
        ("POST", "/v1/books", {}, "admin"),
        ("POST", "/v1/books/main/day", {"business_date": "2026-02-01"}, "day"),
        ("GET", "/v1/accounts", None, "read"),
        ("GET", "/v1/accounts/C-1", None, "read"),
        ("GET", "/v1/operations/x", None, "read"),
        ("GET", "/v1/books", None, "read"),
        ("GET", "/v1/status", None, "read"),
    ],
)
def test_a_key_without_the_scope_is_refused(
    shared_api: ApiCaller, method: str, path: str, body: object, scope: str
) -> None:
    api = shared_api
    key = api.make_key(*(set(SCOPES) - {scope}))
    position = api.position()

    if method == "POST":
        answer = api.post(path, body, key=key)
    else:
        answer = api.http.get(path, headers={"Authorization": f"Bearer {key}"})

    assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")
    assert scope in answer.json()["detail"]
    assert api.position() == position


def test_a_batch_line_without_permission_is_an_error_of_that_line(api: ApiCaller) -> None:
    key = api.make_key("import")

    results = api.post("/v1/operations:batch", [operation("x", credit("C-1", 1))], key=key)

    assert results.json()[0]["code"] == "not_permitted"


def test_a_key_of_one_book_opens_no_other(api: ApiCaller) -> None:
    opened = {"book_id": "other", "name": "Other", "open_business_date": "2026-03-01"}
    api.post("/v1/books", opened)
    key = {"Authorization": f"Bearer {api.make_key(book_id='other')}"}

    main = api.http.get("/v1/accounts", headers=key)
    other = api.http.get("/v1/accounts", headers={**key, "Daybook-Book": "other"})
    books = api.http.get("/v1/books", headers=key)

    assert (main.status_code, main.json()["code"]) == (403, "not_permitted")
    assert other.status_code == 200
    assert [book["book_id"] for book in books.json()["items"]] == ["other"]


def test_the_principal_of_the_key_is_on_record(api: ApiCaller) -> None:
    api.open("C-1")
    key = api.make_key("post", principal="gateway-7")

    api.post(OPERATIONS, operation("r", credit("C-1", 1)), key=key)

    assert api.get("/v1/operations/r").json()["record"]["principal"] == "gateway-7"


def test_only_the_hash_of_a_key_is_stored(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        key = create_key(conn, "p", ["read"])
        rows = conn.execute("SELECT key_hash, principal FROM ledger.api_keys").fetchall()

    assert [(bytes(hashed), principal) for hashed, principal in rows] == [(key_hash(key), "p")]


def test_a_revoked_key_is_nobody(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        key = create_key(conn, "p", ["read"], "main")
        known = select_principal(conn, key_hash(key))
        assert revoke_keys(conn, "p") == 1
        assert select_principal(conn, key_hash(key)) is None

    assert known == Principal("p", frozenset({"read"}), "main")


async def _looked_up(hashed: bytes) -> Principal | None:
    return Principal("p", frozenset({"read"})) if hashed == key_hash("good") else None


def test_a_key_is_remembered_for_a_short_time_only() -> None:
    now = 100.0
    keys = Keyring(_looked_up, steady=lambda: now)

    _run(keys.principal(b"Bearer good"))

    assert keys.remembered(b"Bearer good") is not None
    assert keys.remembered(b"Bearer bad") is None
    now = 106.0
    assert keys.remembered(b"Bearer good") is None


def _run(coroutine: object) -> object:
    try:
        coroutine.send(None)  # type: ignore[attr-defined]
    except StopIteration as done:
        return done.value
    raise AssertionError("the look-up waits for nothing here")


@pytest.mark.parametrize(("principal", "scopes"), [("p", ["steal"]), ("p", []), ("", ["read"])])
def test_a_key_needs_a_name_and_known_scopes(
    database_url: str, principal: str, scopes: list[str]
) -> None:
    with psycopg.connect(database_url) as conn, pytest.raises(InvalidRequest):
        create_key(conn, principal, scopes)


def test_the_local_key_is_made_once_for_this_user_only(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "home" / "local.key"

    def ensure(_: int) -> str:
        with psycopg.connect(database_url, autocommit=True) as conn:
            return ensure_local_key(conn, path)

    with ThreadPoolExecutor(4) as starts:
        keys = set(starts.map(ensure, range(4)))

    assert keys == {path.read_text().strip()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with psycopg.connect(database_url) as conn:
        principal = select_principal(conn, key_hash(keys.pop()))
    assert principal == Principal("local", frozenset(SCOPES))


def test_a_local_key_that_this_database_does_not_know_is_replaced(
    database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "local.key"
    path.write_text("dbk_of_another_database\n")

    with psycopg.connect(database_url, autocommit=True) as conn:
        key = ensure_local_key(conn, path)

    assert key != "dbk_of_another_database"
    assert path.read_text().strip() == key


def test_a_key_for_rules_made_before_repair_had_a_scope_may_repair_and_approve(
    database_url: str,
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        rules, repair = create_key(conn, "alice", ["rules"]), create_key(conn, "bob", ["repair"])
        may = select_principal(conn, key_hash(rules))
        may_less = select_principal(conn, key_hash(repair))

    assert may is not None
    assert may.scopes == {"rules", "repair", "approve"}
    assert may_less is not None
    assert may_less.scopes == {"repair"}
