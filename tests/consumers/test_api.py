"""Repair over HTTP: who decides is the key's principal, and every answer says how it stands."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from consumers.loop import ConsumerSettings, run_consumer
from infra.postgres import EmbeddedPostgres
from ledger.principals import SCOPES
from projections.tables import connect_to
from tests.consumers.test_outcomes import payment, rules_without
from tests.consumers.written_log import BOOK, WrittenLog
from tests.fix_api import ApiCaller, api_over
from tests.fix_postgres import fresh_database
from tests.waiting import wait_until

NOBODYS = UUID(int=7)  # a fixed one: the tests of a page have the same names in every process
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
PATHS = (
    ("POST", "/v1/repairs"),
    ("GET", "/v1/repairs/{position}"),
    ("GET", "/v1/overrides"),
    ("POST", "/v1/overrides"),
    ("GET", "/v1/overrides/{override_id}"),
    ("POST", "/v1/overrides/{override_id}:approve"),
    ("POST", "/v1/overrides/{override_id}:reject"),
    ("GET", "/v1/set-asides"),
    ("POST", "/v1/set-asides"),
)
BREAK_ROWS = """
    CREATE FUNCTION break_row() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.topic = 'ledger.recorded:OperationBooked' THEN NEW.state := '{}'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER break_row BEFORE INSERT ON ledger.stored_events
        FOR EACH ROW EXECUTE FUNCTION break_row();
"""
LINES = [
    {"side": "debit", "subject": "2001.01", "currency": "CNY", "amount": 500, "account": "C-1"},
    {"side": "credit", "subject": "2002.01", "currency": "CNY", "amount": 490, "account": "M-1"},
    {"side": "credit", "subject": "5001.01", "currency": "CNY", "amount": 10},
]


class Repairing:
    """The API with a running consumer; payments park, until rules are published for a case."""

    def __init__(self, api: ApiCaller, written: WrittenLog) -> None:
        self.api = api
        self.written = written

    def park(self, *operation_ids: str) -> None:
        """Book payments that have no rule, and wait until they are parked."""
        last = self.written.commit(*(payment(self.written, each) for each in operation_ids))
        assert self.api.get("/v1/identity", min_position=last, wait_s=30).status_code == 200

    def key(self, principal: str, *scopes: str) -> str:
        """Make a key of a principal."""
        return self.api.make_key(*scopes, principal=principal)

    def propose(self, operation_id: str, key: str, **more: Any) -> httpx.Response:
        """Propose the lines of a payment."""
        body = {"operation_id": operation_id, "lines": LINES, **more}
        return self.api.post("/v1/overrides", body, key=key)

    def decide(self, override_id: str, verb: str, key: str, **body: Any) -> httpx.Response:
        """Approve or reject."""
        path = f"/v1/overrides/{override_id}:{verb}"
        return self.api.post(path, body, key=key, **({"wait_s": 30} if verb == "approve" else {}))


@pytest.fixture(scope="module")
def repairing(
    postgres_server: EmbeddedPostgres,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Repairing]:
    """One application with a live consumer for all cases of this page."""
    stop = threading.Event()
    with fresh_database(postgres_server, template_database) as url:
        written = WrittenLog(url)
        written.publish(rules_without("payment"))
        settings = ConsumerSettings(database_url=url)
        thread = threading.Thread(target=run_consumer, args=(settings, stop))
        thread.start()
        try:
            with api_over(url, tmp_path_factory.mktemp("home")) as api:
                yield Repairing(api, written)
        finally:
            stop.set()
            thread.join(60)


def test_two_principals_make_an_override_and_both_names_are_kept(repairing: Repairing) -> None:
    repairing.park("two-1")
    alice, bob = repairing.key("alice", "repair"), repairing.key("bob", "approve", "read")

    proposal = repairing.propose("two-1", alice, note="by telephone")
    assert proposal.status_code == 201, proposal.text
    override_id = proposal.json()["override_id"]
    approved = repairing.decide(override_id, "approve", bob)

    assert approved.status_code == 200, approved.text
    told = approved.json()
    assert (told["status"], told["maker"], told["checker"]) == ("approved", "alice", "bob")
    assert told["performed"]
    order = repairing.api.get(f"/v1/repairs/{told['decided_position']}").json()["data"]
    assert (order["kind"], order["maker"], order["checker"]) == ("override", "alice", "bob")
    assert [each["status"] for each in order["operations"]] == ["vouchered"]
    [voucher] = repairing.api.get("/v1/vouchers", operation="two-1").json()["data"]["items"] or [0]
    assert voucher["rule_id"] == "override"
    listed = repairing.api.get("/v1/overrides", status="approved").json()["data"]["items"]
    assert override_id in [each["override_id"] for each in listed]


def test_one_principal_with_two_keys_is_still_one(repairing: Repairing) -> None:
    repairing.park("one-1")
    maker, checker = repairing.key("carol", "repair"), repairing.key("carol", "approve")
    override_id = repairing.propose("one-1", maker).json()["override_id"]

    refused = repairing.decide(override_id, "approve", checker)

    assert (refused.status_code, refused.json()["code"]) == (409, "same_principal")
    assert repairing.api.get("/v1/parked", reason="no_rule").json()["data"]["items"]


def test_a_rejected_proposal_stays_rejected_and_the_maker_may_take_the_own_one_back(
    repairing: Repairing,
) -> None:
    repairing.park("no-1", "no-2")
    alice, bob = repairing.key("alice", "repair"), repairing.key("bob", "approve")
    dan = repairing.key("dan", "repair")
    first, second = (
        repairing.propose(each, alice).json()["override_id"] for each in ("no-1", "no-2")
    )

    rejected = repairing.decide(first, "reject", bob, note="the fee is income")
    assert repairing.decide(second, "reject", dan).json()["code"] == "not_permitted"
    taken_back = repairing.decide(second, "reject", alice)

    assert (rejected.json()["status"], rejected.json()["checker"]) == ("rejected", "bob")
    assert rejected.json()["decision_note"] == "the fee is income"
    assert (taken_back.json()["status"], taken_back.json()["checker"]) == ("rejected", "alice")
    late = repairing.decide(first, "approve", bob)
    assert (late.status_code, late.json()["code"]) == (409, "already_rejected")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/repairs", "repair"),
        ("POST", "/v1/overrides", "repair"),
        ("POST", f"/v1/overrides/{NOBODYS}:approve", "approve"),
        ("GET", "/v1/overrides", "read"),
        ("GET", "/v1/set-asides", "read"),
        ("GET", "/v1/repairs/1", "read"),
    ],
)
def test_a_key_without_the_scope_decides_and_reads_nothing(
    repairing: Repairing, method: str, path: str, scope: str
) -> None:
    api = repairing.api
    key = api.make_key(*(set(SCOPES) - {scope, "rules"}))  # `rules` includes them
    position = api.position()

    headers = {"Authorization": f"Bearer {key}"}
    answer = api.http.request(method, path, headers=headers, json={} if method == "POST" else None)

    assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")
    assert api.position() == position


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        ([], 400, "invalid_request"),
        ([{**LINES[0], "amount": 1.5}], 400, "invalid_amount"),
        ([{**LINES[0], "side": "left"}], 400, "invalid_request"),
        (LINES[:2], 422, "override_refused"),
    ],
)
def test_lines_that_cannot_stand_are_refused_and_nothing_is_written(
    repairing: Repairing, lines: list[Any], status: int, code: str
) -> None:
    name = f"bad-{uuid4()}"
    repairing.park(name)
    position = repairing.api.position()

    refused = repairing.propose(name, repairing.key("alice", "repair"), lines=lines)

    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert repairing.api.position() == position


def test_what_another_book_has_proposed_is_unknown_here(repairing: Repairing) -> None:
    repairing.park("book-1")
    override_id = repairing.propose("book-1", repairing.key("alice", "repair")).json()
    opened = repairing.api.post(
        "/v1/books", {"book_id": "second", "name": "Second", "open_business_date": "2026-01-31"}
    )
    assert opened.status_code == 201, opened.text

    answer = repairing.api.post(
        f"/v1/overrides/{override_id['override_id']}:approve",
        {},
        headers={"Daybook-Book": "second"},
    )

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_override")


def test_a_dry_run_answers_the_vouchers_and_an_order_repairs_page_by_page(
    repairing: Repairing,
) -> None:
    api = repairing.api
    repairing.park("page-1", "page-2", "page-3")
    wanted = {"operation_ids": ["page-1", "page-2", "page-3"], "limit": 2}
    position = api.position()
    parked = api.post("/v1/repairs", wanted, dry_run="true")
    assert [each["becomes"] for each in parked.json()["items"]] == ["parked", "parked"]
    assert (parked.status_code, api.position()) == (200, position)
    published = repairing.written.publish()
    try:
        # a dry run asks the books, which meet the rules a moment later
        assert api.get("/v1/identity", min_position=published, wait_s=30).status_code == 200
        dry = api.post("/v1/repairs", wanted, dry_run="true").json()
        assert [each["becomes"] for each in dry["items"]] == ["vouchered", "vouchered"]
        assert dry["items"][0]["vouchers"][0]["lines"][0]["amount"] == 500

        first = api.post("/v1/repairs", wanted, wait_s=30)
        rest = {**wanted, "cursor": first.json()["next_cursor"], "note": "rule added"}
        second = api.post("/v1/repairs", rest, wait_s=30).json()
        again = api.post("/v1/repairs", wanted).json()
    finally:
        repairing.written.publish(rules_without("payment"))

    assert first.status_code == 202
    assert first.json()["performed"]
    assert [each["status"] for each in first.json()["operations"]] == ["vouchered", "vouchered"]
    assert [each["operation_id"] for each in second["operations"]] == ["page-3"]
    assert second["next_cursor"] is None
    assert (again["position"], again["operations"]) == (None, [])
    order = api.get(f"/v1/repairs/{second['position']}").json()["data"]
    assert (order["maker"], order["note"], order["performed"]) == ("local", "rule added", True)
    assert api.get("/v1/repairs/1").json()["code"] == "not_found"


def test_parked_operations_are_filtered_and_counted_with_age_and_amount(
    repairing: Repairing,
) -> None:
    repairing.park("aged-1")

    page = repairing.api.get(
        "/v1/parked", reason="no_rule", account="C-1", status="parked", limit=1
    ).json()["data"]
    none = repairing.api.get("/v1/parked", account="nobody").json()["data"]

    assert page["items"][0]["age_s"] > 0
    (count,) = page["counts"]
    assert count["amounts"]["CNY"] == 990 * count["count"]
    assert count["oldest_age_s"] > 0
    assert none == {"counts": [], "items": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"reason": "norule"}, "reason"),
        ({"business_type": "paymnet"}, "business_type"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "to"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused_by_name(
    repairing: Repairing, wanted: dict[str, str], field: str
) -> None:
    for answer in (
        repairing.api.get("/v1/parked", **wanted),
        repairing.api.post("/v1/repairs", wanted),
    ):
        told = answer.json()
        assert (answer.status_code, told["code"]) == (400, "invalid_parameter"), told
        assert told["field"] == field


def test_an_order_by_rules_that_nobody_published_is_refused(repairing: Repairing) -> None:
    repairing.park("rules-1")
    wanted = {"operation_ids": ["rules-1"], "ruleset_hash": "deadbeef"}
    position = repairing.api.position()

    refused = [repairing.api.post("/v1/repairs", wanted, dry_run=dry) for dry in ("true", "false")]

    assert [each.json()["code"] for each in refused] == ["not_found", "not_found"]
    assert repairing.api.position() == position


def test_set_aside_messages_are_listed_with_their_raw_bytes(repairing: Repairing) -> None:
    api = repairing.api
    position = repairing.written.decide(
        lambda made: made.set_aside("t", 3, 9, b"\xff\x00", reason="foreign", maker="olga")
    )

    found = api.get("/v1/set-asides", min_position=position, wait_s=30).json()["data"]["items"]
    confined = api.make_key("read", book_id=BOOK)
    refused = api.http.get("/v1/set-asides", headers={"Authorization": f"Bearer {confined}"})

    (message,) = [each for each in found if each["topic"] == "t"]
    assert base64.b64decode(message["raw"]) == b"\xff\x00"
    assert (message["partition"], message["at_offset"], message["maker"]) == (3, 9, "olga")
    assert refused.status_code == 403


def test_a_message_nobody_can_read_is_set_aside_by_the_principal_of_a_key_and_the_lane_goes_on(
    repairing: Repairing,
) -> None:
    """What can be read, what is not there and topics of others are never passed over."""
    api, written = repairing.api, repairing.written
    good = written.commit(written.recharge("readable"))
    with psycopg.connect(written.database_url, autocommit=True) as conn:
        conn.execute(BREAK_ROWS)
        broken = written.commit(written.recharge("unreadable"))
        conn.execute("DROP FUNCTION break_row CASCADE")
    behind = written.commit(written.recharge("behind-it"))
    olga = repairing.key("olga", "repair")
    body = {"topic": "log", "offset": broken, "reason": "written by hand"}

    def refused(key: str = olga, **other: Any) -> tuple[int, str]:
        answer = api.post("/v1/set-asides", {**body, **other}, key=key)
        return answer.status_code, answer.json()["code"]

    assert refused(repairing.key("rita", "read")) == (403, "not_permitted")
    assert refused(api.make_key("repair", book_id=BOOK)) == (403, "not_permitted")
    assert refused(offset=good)[1] == "readable"
    assert refused(offset=10**9) == (404, "not_found")
    assert refused(topic="somebody.elses") == (404, "not_found")
    assert api.get("/v1/identity", min_position=behind, wait_s=0).status_code != 200

    first = api.post("/v1/set-asides", body, key=olga, wait_s=30)
    again = api.post("/v1/set-asides", body, key=olga, wait_s=30)

    assert (first.status_code, again.status_code) == (201, 200)
    decided = first.json()
    assert (decided["maker"], decided["raw_bytes"], decided["moved_on"]) == ("olga", 2, True)
    assert again.json()["position"] is None
    found = api.get("/v1/set-asides", min_position=decided["position"], wait_s=30).json()
    assert ("log", broken, "olga") in [
        (each["topic"], each["at_offset"], each["maker"]) for each in found["data"]["items"]
    ]


@pytest.fixture(scope="module")
def document(repairing: Repairing) -> dict[str, Any]:
    """The document as the server gives it."""
    told: dict[str, Any] = repairing.api.get("/openapi.json").json()
    return told


def test_every_route_is_documented_with_schemas_and_examples_that_fit(
    document: dict[str, Any],
) -> None:
    for method, path in PATHS:
        operation = document["paths"][path][method.lower()]
        assert operation["description"]
        for media in operation.get("requestBody", {}).get("content", {}).values():
            whole = {**media["schema"], "components": document["components"]}
            for example in media["examples"].values():
                Draft202012Validator(whole).validate(example["value"])
    for reference in set(re.findall(r"#/components/schemas/([^\"']+)", json.dumps(document))):
        assert reference in document["components"]["schemas"]


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda each: each.replace("/v1/", ""))
def test_no_generated_request_makes_the_server_fail(
    repairing: Repairing, document: dict[str, Any], method: str, path: str
) -> None:
    operation = schemathesis.openapi.from_dict(document)[path][method]
    key = {"Authorization": f"Bearer {repairing.api.key}"}

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def sends_anything(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy())
        waits = ("operation_id", "min_position")  # a 503 is the answer to what never comes
        query = {name: value for name, value in (case.query or {}).items() if name not in waits}
        case.query = {**query, "wait_s": 0}
        answer = case.call(base_url=str(repairing.api.http.base_url), headers=key)
        case.validate_response(answer, checks=CHECKS)

    sends_anything()
    wait_until(lambda: _is_caught_up(repairing), "the consumer is alive")


def _is_caught_up(repairing: Repairing) -> bool:
    with connect_to(repairing.api.database_url) as conn:
        row = conn.execute(
            "SELECT (SELECT max(last_id) FROM ledger.seals) = (SELECT min(position) FROM positions)"
        ).fetchone()
    return bool(row and row[0])
