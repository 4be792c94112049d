"""A stopping API process says so before it goes: not ready at once, answers until it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import httpx

from infra.cli.exit_codes import ExitCode
from infra.demo.system import free_port
from infra.serve import wait_until_ready
from infra.supervisor import program
from tests.fix_api import ApiCaller, credit, operation, prepared
from tests.waiting import wait_until

NOTICE_S = 300  # far longer than the test: a second signal ends it


def test_a_draining_process_is_not_ready_at_once_and_answers_until_it_leaves(
    database_url: str, tmp_path: Path
) -> None:
    key = prepared(database_url, tmp_path)
    given = {
        "DATABASE_URL": database_url,
        "HOME": tmp_path,
        "PORT": free_port(),
        "DRAIN_NOTICE_S": NOTICE_S,
    }
    process = subprocess.Popen(
        [*program(), "api"],
        env={**os.environ, **{f"DAYBOOK_{name}": str(value) for name, value in given.items()}},
    )
    url = f"http://127.0.0.1:{given['PORT']}"
    answers: list[int] = []
    unanswered: list[str] = []
    try:
        assert wait_until_ready(url)
        with httpx.Client(base_url=url, timeout=60) as http:
            api = ApiCaller(http, key, database_url, tmp_path)
            api.open("C-1")

            process.send_signal(signal.SIGTERM)
            wait_until(lambda: http.get("/health/ready").status_code == 503, "it is not ready")
            ready = http.get("/health/ready").json()
            assert (ready["status"], ready["drain"]) == (
                "not_ready",
                "the process has been asked to stop",
            )
            assert ready["engine"] == "ok"
            assert http.get("/health/live").status_code == 200
            assert httpx.post(
                f"{url}/v1/operations",
                json=operation("new-connection", credit("C-1", 1)),
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
            ).is_success

            def post() -> None:
                for number in range(100_000):
                    body = operation(f"o-{number}", credit("C-1", 1))
                    try:
                        answers.append(api.post("/v1/operations", body).status_code)
                    except httpx.TransportError:
                        unanswered.append(f"o-{number}")
                        return

            load = threading.Thread(target=post)
            load.start()
            wait_until(lambda: len(answers) > 20, "posting goes on in the notice")
            process.send_signal(signal.SIGTERM)
            load.join(60)
            assert process.wait(60) == ExitCode.OK  # it was a signal's, which no page names
    finally:
        process.kill()
        process.wait()
    assert set(answers) == {201}
    assert len(unanswered) == 1
