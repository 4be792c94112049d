"""One server: its first start, a second one beside it, its end, and the loss of its database."""

from __future__ import annotations

import datetime as dt
import os
import signal
import stat
import subprocess
from pathlib import Path

import httpx
import psycopg
import pytest

from infra import audit
from infra.cli.exit_codes import ExitCode
from infra.demo.payment_day import BUSINESS_DATE
from infra.demo.system import system, variables
from infra.postgres import embedded_postgres
from infra.supervisor import program
from tests.e2e.conftest import Running, system_settings
from tests.e2e.load import Load, client_of, open_customer, recharge, times_booked
from tests.waiting import wait_until

SMALL = {"shared_buffers": "128MB", "min_wal_size": "80MB", "max_wal_size": "512MB"}


def ends(pid: int) -> bool:
    """Tell whether a process that is not ours to wait for has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_the_first_start_makes_book_rules_and_a_private_key_and_the_second_changes_nothing(
    running: Running,
) -> None:
    with running() as first:
        key_path = first.settings.key_path
        assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
        key = first.key
        with client_of(first) as client:
            [book] = client.get("/v1/books")["items"]
            head = client.get("/v1/status")["log"]["position"]
            rulesets = client.get("/v1/rulesets", min_position=head)["data"]
        assert book["open_business_date"] == BUSINESS_DATE.isoformat()
        assert len(rulesets) == 1
    with running() as second:
        assert second.key == key
        with client_of(second) as client:
            assert client.get("/v1/books")["items"] == [book]
            assert client.get("/v1/rulesets")["data"] == rulesets


def test_a_served_book_follows_the_schedule_and_goes_on_posting(running: Running) -> None:
    today = dt.datetime.now(dt.UTC).date().isoformat()
    with running(day_opens_at="00:00", day_look_s=0.1) as system:
        assert "days" in system.children
        with client_of(system) as client:
            wait_until(
                lambda: client.get("/v1/books/main")["open_business_date"] >= today,
                "the day that is due is open",
            )
            open_customer(system)
            answer = client.post("/v1/operations", recharge("on-schedule")).value
            assert answer["business_date"] >= today


def test_a_second_server_of_the_same_home_is_refused_and_says_where_the_first_is(
    running: Running,
) -> None:
    with running() as first:
        second = subprocess.run(
            [*program(), "serve"],
            env={**os.environ, **variables(first.settings)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == ExitCode.UNAVAILABLE
        assert f"process {first.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        with client_of(first) as client:
            assert client.get("/v1/status")["engine"]["running"]


def test_a_second_server_on_the_same_data_directory_shares_it_safely(tmp_path: Path) -> None:
    """Another home may name the database of the first: both post, one log, nothing differs."""
    with embedded_postgres(tmp_path / "data", settings=SMALL) as postgres:
        shared = {"database_url": postgres.url}
        with (
            system(system_settings(home=tmp_path / "one", **shared), open_date=BUSINESS_DATE) as a,
            system(system_settings(home=tmp_path / "two", **shared), open_date=BUSINESS_DATE) as b,
        ):
            open_customer(a)
            with client_of(a) as first, client_of(b) as second:
                for number in range(20):
                    first.post("/v1/operations", recharge(f"a-{number}"))
                    answer = second.post("/v1/operations", recharge(f"b-{number}")).value
            assert answer["accounts"][0]["balance"] == 40 * 100_00
            assert set(times_booked(postgres.url).values()) == {1}


def test_sigterm_answers_what_was_accepted_and_ends_with_exit_code_0(running: Running) -> None:
    with running() as system:
        open_customer(system)
        with Load(system, callers=16, patience_s=3) as load:
            wait_until(lambda: len(load.acknowledged) > 200, "posting has begun")
            parts = system.children
            system.process.send_signal(signal.SIGTERM)
            assert system.process.wait(60) == 0
            load.stop.set()
            url = system.settings.database_url
            assert url is not None
            booked = times_booked(url)
            assert set(load.acknowledged) <= set(booked)
            assert all(ends(pid) for pid in parts.values())
            assert "killed" not in system.log
            with running() as again, client_of(again) as client:
                head = client.get("/v1/status")["log"]["position"]
                assert client.get("/v1/identity", min_position=head)["data"]["holds"]
    assert load.other == []


def test_nobody_waits_at_a_door_behind_which_no_api_is_left(running: Running) -> None:
    """The supervisor kept the listening socket until the slowest part had drained: whoever
    connected meanwhile was neither refused nor answered."""
    with running() as system:
        parts = system.children
        os.kill(parts["consumer"], signal.SIGSTOP)
        try:
            system.process.send_signal(signal.SIGTERM)
            wait_until(lambda: ends(parts["api-1"]), "the API has drained")
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{system.url}/health/live", timeout=30)
            assert system.process.poll() is None
        finally:
            os.kill(parts["consumer"], signal.SIGCONT)
        assert system.process.wait(60) == 0


def test_no_part_outlives_a_server_that_was_killed(running: Running) -> None:
    with running() as system:
        parts = system.children
        assert {"api-1", "consumer"} <= set(parts)
        system.process.kill()
        system.process.wait()
        wait_until(lambda: all(ends(pid) for pid in parts.values()), "every part has ended")


def test_a_database_that_is_down_gives_503_and_loses_nothing_once_it_is_back(
    tmp_path: Path,
) -> None:
    with embedded_postgres(tmp_path / "data", settings=SMALL) as postgres:
        settings = system_settings(home=tmp_path / "home", database_url=postgres.url)
        with system(settings, open_date=BUSINESS_DATE) as started:
            open_customer(started)
            with client_of(started) as client:
                client.post("/v1/operations", recharge("before"))

            postgres.crash()

            headers = {"Authorization": f"Bearer {started.key}"}
            refused = httpx.post(
                f"{started.url}/v1/operations", json=recharge("during"), headers=headers, timeout=60
            )
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["retriable"] is True
            ready = httpx.get(f"{started.url}/health/ready", timeout=60)
            assert ready.status_code == 503

            postgres.start()

            with client_of(started) as client:
                again = client.post("/v1/operations", recharge("during")).value
                assert again["accounts"][0]["balance"] == 200_00
                client.get("/v1/trial-balance", operation_id="during", wait_s=30)
            assert times_booked(postgres.url) == {"before": 1, "during": 1}
            with psycopg.connect(postgres.url, autocommit=True) as conn:
                wait_until(lambda: audit.verify(conn).passed, "the audit passes")


def test_the_embedded_database_is_started_again_under_load(tmp_path: Path) -> None:
    settings = system_settings(home=tmp_path / "home")
    with system(settings, open_date=BUSINESS_DATE) as started:
        open_customer(started)
        with Load(started) as load:
            wait_until(lambda: len(load.acknowledged) > 100, "posting has begun")
            embedded_postgres(settings.postgres_dir).crash()
            done = len(load.acknowledged)
            wait_until(lambda: load.error or len(load.acknowledged) > done + 200, "it goes on")
        assert load.error is None
        assert load.other == []
        with embedded_postgres(settings.postgres_dir) as postgres:
            booked = times_booked(postgres.url)
            assert set(load.acknowledged) <= set(booked)
            assert set(booked.values()) == {1}


def test_a_port_in_use_is_said_before_anything_is_started(tmp_path: Path, running: Running) -> None:
    with running() as first:
        settings = system_settings(home=tmp_path / "other", port=first.settings.port)
        refused = subprocess.run(
            [*program(), "serve"],
            env={**os.environ, **variables(settings)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert refused.returncode == ExitCode.UNAVAILABLE
    assert "cannot listen" in refused.stderr
    assert not settings.postgres_dir.exists()


@pytest.mark.parametrize("broken", ["not-a-number", "0", "70000"])
def test_a_wrong_setting_is_named_and_exits_as_usage(broken: str) -> None:
    done = subprocess.run(
        [*program(), "serve"],
        env={**os.environ, "DAYBOOK_PORT": broken},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert "DAYBOOK_PORT" in done.stderr
    assert "Traceback" not in done.stderr
