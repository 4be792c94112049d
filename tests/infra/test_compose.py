"""The compose file, run: separate processes, PostgreSQL and Kafka make a voucher of a posting."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from infra.kafka import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.docker
INFRA = Path(__file__).parents[2] / "infra"
SCOPES = ("read", "post", "accounts", "audit")


@dataclass(frozen=True)
class Stack:
    """One project of the compose file on its own port."""

    command: tuple[str, ...]
    environment: dict[str, str]
    port: int

    def run(self, *words: str, timeout_s: float = 300) -> str:
        done = subprocess.run(
            [*self.command, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **self.environment},
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture
def stack(
    compose_command: tuple[str, ...],
    daybook_image: str,
    postgres_image: str,
    kafka_image: str,
    tmp_path: Path,
) -> Iterator[Stack]:
    file = tmp_path / "compose.yaml"
    text = (INFRA / "compose.yaml").read_text()
    file.write_text(text.replace("\nname: daybook\n", "\n"))  # docker-compose 1 knows no name
    project = f"daybooktest{uuid.uuid4().hex[:8]}"
    words = ("--project-directory", str(INFRA), "--project-name", project, "--file", str(file))
    port = free_port()
    environment = {
        "DAYBOOK_IMAGE": daybook_image,
        "POSTGRES_IMAGE": postgres_image,
        "KAFKA_IMAGE": kafka_image,
        "POSTGRES_SHARED_BUFFERS": "128MB",
        "DAYBOOK_PORTS": str(port),
    }
    made = Stack((*compose_command, *words), environment, port)
    try:
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "20")


def test_separate_processes_make_a_voucher_of_a_posting(stack: Stack) -> None:
    # given the stack with a book and a key
    stack.run("up", "--no-build", "--detach")
    command = ("run", "--rm", "--no-deps", "-T", "migrate")
    stack.run(*command, "books", "open", "main", "--date", "2026-01-30")
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    made = json.loads(stack.run(*command, "keys", "create", "tester", *scopes, "--json"))
    headers = {"Authorization": f"Bearer {made['key']}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}/v1", headers=headers) as api:
        wait_until(lambda: _answers(api), "the API answers")
        account = {
            "operation_id": "open-1",
            "account": "C-1",
            "owner": "Ann",
            "type": "customer",
            "subject": "2001.01",
            "currency": "CNY",
        }
        assert api.post("/accounts", json=account).status_code in {200, 201}
        # when an operation is posted
        leg = {"kind": "credit", "account": "C-1", "amount": 10_000, "currency": "CNY"}
        recharge = {"operation_id": "op-1", "business_type": "recharge", "legs": [leg]}
        posted = api.post("/operations", json=recharge)
        assert posted.status_code in {200, 201}, posted.text
        # then relay, consumer and results bring its accounting status back
        wait_until(
            lambda: api.get("/operations/op-1").json()["accounting_status"] == "vouchered",
            "the posting is vouchered",
        )


def _answers(api: httpx.Client) -> bool:
    try:
        return api.get("/books").status_code == 200
    except httpx.TransportError:
        return False
