"""The demo from beginning to end: start, post, follow, repair, audit. Read it top to bottom.

Invariant: it passes only when every answer was the one foretold, the identity holds, the trial
balance ties and the audit passes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec
import psycopg

from accounting.ruleset_files import SHIPPED_EXAMPLES, shipped_ruleset
from consumers import repair
from infra import audit
from infra.client import DaybookClient
from infra.decision_log import decision_log
from infra.demo.figures import Figures, rates, select_voucher_hash
from infra.demo.maker import Step
from infra.demo.payment_day import PaymentDay
from infra.demo.posting import DayPoster, encoded
from infra.demo.system import System
from infra.first_start import publish_rules
from infra.http_load import Tally
from projections.tables import connect_to

MAKER = "demo"
EXPIRY_TIMEOUT_S = 60.0
ADDED_RULE = SHIPPED_EXAMPLES / "voucher_sale.toml"


class Bar(Protocol):
    """Somebody who wants to know how far it is."""

    def advance(self, count: int = 1) -> None:
        """Take note that some more is done."""

    def rename(self, name: str) -> None:
        """Take note of what is being done."""

    def reach(self, done: int, total: int | None = None) -> None:
        """Take note of how much is done."""


Progress = Callable[[str, int | None], AbstractContextManager[Bar]]
Say = Callable[[str], None]


def run_day(
    day: PaymentDay, seed: int, running: System, database_url: str, *, progress: Progress, say: Say
) -> Figures:
    """Post the day into a running system and follow it to the audit's verdict.

    Raises `AnswerDiffers` for the first answer that is not the one foretold.
    """
    began = time.monotonic()
    book = running.settings.book
    with DaybookClient(running.url, key=running.key, book=book, patience_s=60) as client:
        poster = _post(day, running, progress)
        last_visible_s = _wait_for_last(client, poster)
        probes = _follow(day, client)
        say(f"{poster.posted.operations:,} operations answered as foretold; following them")
        parked, repaired = _repair(database_url, book, progress)
        _wait_for_expiries(day, client)
        head = client.get("/v1/status")["log"]["position"]
        trial_balance = client.get("/v1/trial-balance", min_position=head)["data"]
        identity = client.get("/v1/identity", min_position=head)["data"]
    with psycopg.connect(database_url, autocommit=True) as conn, progress("audit", None) as bar:
        verdict = audit.verify(conn, on_progress=bar.reach)
    with connect_to(database_url) as conn:
        vouchers, voucher_hash = select_voucher_hash(conn, book)
    poster.posted.operations += len(day.probes)
    return Figures(
        seed=seed,
        bus=running.settings.bus,
        business_date=day.business_date.isoformat(),
        rates=rates(poster.posted, probes, last_visible_s),
        endings=dict(sorted(poster.posted.endings.items())),
        parked_before_repair=parked,
        repaired=repaired,
        vouchers=vouchers,
        voucher_hash=voucher_hash,
        trial_balance=trial_balance,
        identity=identity,
        audit={"passed": verdict.passed, **msgspec.to_builtins(verdict)},
        elapsed_s=round(time.monotonic() - began, 1),
        passed=verdict.passed and identity["holds"] and _ties(trial_balance),
    )


def _post(day: PaymentDay, running: System, progress: Progress) -> DayPoster:
    with progress("opening accounts", day.operations) as bar:
        poster = DayPoster(running.url, running.key, running.settings.book, bar.advance)
        poster.open_accounts(day)
        for stage in day.stages:
            bar.rename(stage.name)
            poster.post_stage(stage)
        bar.rename("repeats")
        poster.post_again(day.repeats)
    return poster


def _wait_for_last(client: DaybookClient, poster: DayPoster) -> float:
    """Return how long after the last answer the trial balance showed it."""
    client.get("/v1/trial-balance", min_position=poster.posted.last_position)
    return max(0.0, time.perf_counter() - poster.posted.last_answered_at)


def _follow(day: PaymentDay, client: DaybookClient) -> Tally:
    """Post operations one by one; measure from each answer to a trial balance that has it."""
    tally = Tally()
    for step in day.probes:
        answer = client.post("/v1/operations", msgspec.Raw(encoded(step.operation))).value
        answered_at = time.perf_counter()
        client.get("/v1/trial-balance", min_position=answer["position"])
        tally.latencies_s.append(time.perf_counter() - answered_at)
    return tally


def _repair(
    database_url: str, book: str, progress: Progress
) -> tuple[dict[str, int], dict[str, int]]:
    """Publish the rule that was missing, retry what was parked; return what was and is."""
    with connect_to(database_url) as conn:
        before = Counter(
            f"{item.status}: {item.reason or 'behind a parked one'}"
            for item in repair.every_parked(conn, book)
        )
        publish_rules(database_url, book, shipped_ruleset(ADDED_RULE), maker=MAKER)
        with decision_log(database_url) as decisions, progress("repair", None) as bar:
            report = repair.retry(
                conn,
                decisions,
                book,
                maker=MAKER,
                note="the rule for voucher_sale was added",
                progress=bar.reach,
            )
    return dict(before), dict(Counter(item.status for item in report.operations))


def _wait_for_expiries(day: PaymentDay, client: DaybookClient) -> None:
    """Wait until every hold that was opened with an expiry has given the money back by itself."""
    deadline = time.monotonic() + EXPIRY_TIMEOUT_S
    for account in day.expiring_accounts:
        while any(
            hold["expires_at"] for hold in client.get(f"/v1/accounts/{account}/holds")["items"]
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"holds of {account} did not expire")
            time.sleep(0.2)


def _ties(trial_balance: dict[str, Any]) -> bool:
    return all(total["ties"] for total in trial_balance["totals"])


def expected_endings(day: PaymentDay) -> Iterator[tuple[str, int]]:
    """Give the foretold number of operations by answer."""
    steps: list[Step] = [step for stage in day.stages for step in stage.steps]
    yield from sorted(Counter(step.expected for step in steps).items())
