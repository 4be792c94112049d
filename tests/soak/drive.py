"""Rounds of a soak: callers post what the model foretells, something breaks, then all must agree.

Invariant: histories, faults, repairs and rule changes follow from the seed; a round that fails is
run again by the seed and the number of rounds.
"""

from __future__ import annotations

import random
import re
import secrets
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.client import ApiRefused, DaybookClient
from infra.demo.payment_day import BUSINESS_DATE
from infra.postgres import EmbeddedPostgres, embedded_postgres
from tests.e2e.load import client_of
from tests.faults.scene import Scene, running_scene
from tests.soak.comparison import Differs, assert_audited, compare
from tests.soak.decisions import decide
from tests.soak.faults import Place, faults_of
from tests.soak.history import CALLERS, Caller, Step, first_accounts, with_suspense
from tests.soak.model import BOOKED, PARKED, Body, Model
from tests.waiting import wait_until

STEPS_PER_CALLER = 60
AUDIT_EVERY = 3
PATIENCE_S = 120.0
RUNNING = "operation_running"
SMALL = {"shared_buffers": "256MB", "min_wal_size": "80MB", "max_wal_size": "1GB"}
Say = Callable[[str], None]


@dataclass
class Soak:
    """One seeded run against one system."""

    scene: Scene
    server: EmbeddedPostgres
    seed: int
    say: Say
    steps: int = STEPS_PER_CALLER
    model: Model = field(default_factory=lambda: Model(BUSINESS_DATE.isoformat()))
    rounds: int = 0
    fault: str = ""
    posted: int = 0
    earlier: dict[int, list[Body]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def begin(self) -> None:
        """Open every account."""
        accounts = first_accounts()
        self.model.accounts = with_suspense(accounts)
        with client_of(self.scene) as client:
            for number, account in accounts.items():
                client.post(
                    "/v1/accounts",
                    {
                        "operation_id": f"open-{number}",
                        "account": number,
                        "owner": "soak",
                        "type": "customer" if account.subject == "2001.01" else "merchant",
                        "subject": account.subject,
                        "currency": "CNY",
                        "credit_limit": account.credit_limit,
                    },
                )

    def round(self) -> None:
        """Callers post, a fault strikes, everybody waits, everything is compared."""
        self.rounds += 1
        rng = random.Random(f"{self.seed}/{self.rounds}/plan")
        faults = faults_of(self.scene.settings.bus)
        name = self.fault = rng.choice(list(faults))
        place = Place(self.scene, self.server, self.model.open(PARKED))
        if name == "parked operations are repaired":
            self.model.retry(place.parked)
        with _callers(self) as callers:
            wanted = rng.randrange(CALLERS * self.steps // 4)
            wait_until(lambda: callers.answered >= wanted or callers.error, "callers post")
            faults[name](place)
        if callers.error is not None:
            raise callers.error
        self.posted += callers.answered
        with client_of(self.scene, patience_s=PATIENCE_S) as client:
            compare(client, self.scene.database_url, self.model)
            then = decide(rng, self.model, self.scene.database_url, client)
        if self.rounds % AUDIT_EVERY == 0:
            assert_audited(self.scene.database_url)
        for part, pid in self.scene.children.items():
            self.memory[part].append(resident_mib(pid))
        self.say(f"round {self.rounds}: {callers.answered} answers, {name}{then}")


@dataclass
class _Callers:
    """The callers of a round; `error` is the first difference that one of them met."""

    soak: Soak
    answered: int = 0
    error: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def post_all(self, number: int) -> None:
        """Post one caller's steps in order."""
        try:
            soak = self.soak
            earlier = soak.earlier[number]
            caller = Caller(soak.model, soak.seed, soak.rounds, number, earlier)
            with client_of(soak.scene, patience_s=PATIENCE_S) as client:
                for step in caller.steps(soak.steps):
                    if self.error is not None:
                        return
                    _check(client, step)
                    with self.lock:
                        self.answered += 1
        except BaseException as error:  # noqa: BLE001 - the round raises it
            self.error = self.error or error


@contextmanager
def _callers(soak: Soak) -> Iterator[_Callers]:
    callers = _Callers(soak)
    threads = [threading.Thread(target=callers.post_all, args=(n,)) for n in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        for thread in threads:
            thread.join()


def _check(client: DaybookClient, step: Step) -> None:
    """Post a step, again while it is still being booked, and hold the answer to the model's."""
    path = f"/v1/accounts/{step.account}/commands" if step.account else "/v1/operations"
    while True:
        try:
            client.post(path, step.body)
            answer = BOOKED
        except ApiRefused as refused:
            if refused.code == RUNNING:
                time.sleep(0.05)
                continue
            answer = refused.code
        if answer != step.expected:
            raise Differs(f"model {step.expected}, system {answer}: {step.body}")
        return


@contextmanager
def started(
    seed: int, say: Say, *, steps: int = STEPS_PER_CALLER, kafka: str | None = None
) -> Iterator[Soak]:
    """Start a system of its own, with its own database server, and open its accounts.

    `kafka`: bootstrap of a broker to run over; its topics are the run's own.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="daybook-soak-")))
        server = stack.enter_context(embedded_postgres(folder / "data", settings=SMALL))
        scene = stack.enter_context(
            running_scene(folder / "home", server.url, processes=2, **_bus(kafka))
        )
        soak = Soak(scene, server, seed, say, steps)
        soak.begin()
        yield soak


def _bus(kafka: str | None) -> dict[str, object]:
    if kafka is None:
        return {}
    run_name = f"soak.{secrets.token_hex(4)}"
    return {
        "bus": "kafka",
        "kafka_bootstrap": kafka,
        "operations_topic": f"{run_name}.ledger.operations",
        "results_topic": f"{run_name}.accounting.results",
        "consumer_group": f"{run_name}.vouchers",
    }


def run(
    seed: int, *, minutes: float, rounds: int | None, say: Say, kafka: str | None = None
) -> int:
    """Soak for some minutes, or some rounds; return how many rounds agreed. Raises `Differs`."""
    deadline = time.monotonic() + minutes * 60
    with started(seed, say, kafka=kafka) as soak:
        try:
            while _goes_on(soak, deadline, rounds):
                soak.round()
            assert_audited(soak.scene.database_url)
        except BaseException:
            again = f"make soak SEED={seed} ROUNDS={soak.rounds}"
            say(f"round {soak.rounds} ({soak.fault}) failed; again: {again}")
            say(soak.scene.log[-2_000:])
            raise
        for line in summary_of(soak):
            say(line)
        return soak.rounds


def _goes_on(soak: Soak, deadline: float, rounds: int | None) -> bool:
    return time.monotonic() < deadline if rounds is None else soak.rounds < rounds


def summary_of(soak: Soak) -> list[str]:
    """Say what the run was made of: answers, how operations ended, memory of the parts."""
    answers = Counter(soak.model.answers.values())
    ended = Counter(each.status for each in soak.model.booked.values())
    memory = [
        f"{part} {sizes[0]} → {sizes[-1]} (most {max(sizes)})"
        for part, sizes in sorted(soak.memory.items())
    ]
    return [
        "operations: " + ", ".join(f"{count} {name}" for name, count in answers.most_common()),
        "of the booked: " + ", ".join(f"{count} {name}" for name, count in ended.most_common()),
        "memory in MiB: " + "; ".join(memory),
        f"{soak.rounds} rounds, {soak.posted} answers: model and system agree",
    ]


def resident_mib(pid: int) -> int:
    """Read a process's resident memory; 0 when it has just gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except FileNotFoundError:
        return 0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) // 1024 if found else 0
