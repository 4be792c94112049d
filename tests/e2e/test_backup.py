"""Backup and restore: the page's walk under load, and Kafka when the log has become shorter."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

import infra
from infra import audit
from infra.backup import BackupRefused, mark_restored, restore_backup, take_backup
from infra.demo.payment_day import BUSINESS_DATE
from infra.demo.system import System, own_topics, system, variables
from infra.first_start import first_start, open_book_with_rules
from infra.postgres import PostgresUnavailable, embedded_postgres
from infra.settings import with_overrides
from tests.consumers.caught_up import consume_log
from tests.docs.snippets import blocks_of
from tests.docs.tour import Shell
from tests.e2e.conftest import system_settings
from tests.e2e.load import Load, client_of, open_customer, recharge, times_booked
from tests.waiting import wait_until

SMALL = {"shared_buffers": "64MB", "min_wal_size": "80MB", "max_wal_size": "256MB"}
PAGE = Path(infra.__file__).parent / "backup.md"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A person's shell in a folder of this test's own."""
    environment = {name: value for name, value in os.environ.items() if "DAYBOOK_" not in name}
    environment["PATH"] = f"{Path(sys.prefix) / 'bin'}:{environment['PATH']}"
    started = Shell(tmp_path, {**environment, "DAYBOOK_HOME": str(tmp_path / "home")})
    yield started
    started.close()


def done(shell: Shell, command: str) -> str:
    """Run commands of the page; each must succeed."""
    said = shell.run(f"({command}\n) && echo 'it is done'")
    assert said.endswith("it is done"), f"{command}\nsaid: {said}"
    return said


def test_the_walk_of_the_page_restores_every_operation_the_backup_had_and_proves_it(
    shell: Shell, tmp_path: Path
) -> None:
    walk = [block for block in blocks_of(PAGE.read_text("utf-8")) if "walk" in block.words]
    (stop,) = [number for number, block in enumerate(walk) if "stop" in block.words]
    settings = system_settings(home=tmp_path / "home")
    with system(settings, open_date=BUSINESS_DATE) as first:
        open_customer(first)
        with Load(first) as load:
            wait_until(lambda: len(load.acknowledged) > 200, "posting has begun")
            before = list(load.acknowledged)
            for block in walk[:stop]:
                done(shell, block.text)
            wait_until(
                lambda: len(load.acknowledged) > len(before) + 200, "posting went on all the time"
            )
        assert load.error is None

    for block in walk[stop + 1 :]:
        done(shell, block.text)

    again = with_overrides(settings, home=tmp_path / "restored")
    with system(again, open_date=BUSINESS_DATE) as restored:
        with embedded_postgres(again.postgres_dir) as postgres:
            booked = times_booked(postgres.url)
        with client_of(restored) as client:
            assert client.get("/v1/status")["log"]["incarnation"] == 2
            replayed = client.post(
                "/v1/operations", recharge(before[0], amount_minor=int(before[0][5:]))
            )
            client.post("/v1/operations", recharge("after-the-restore"))
            client.get("/v1/trial-balance", operation_id="after-the-restore", wait_s=30)
    assert replayed.replayed
    assert set(before) <= set(booked)
    assert set(booked.values()) == {1}


def test_a_backup_overwrites_nothing_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    with embedded_postgres(tmp_path / "data", settings=SMALL) as postgres:
        take_backup(postgres.url, path)
        whole = path.read_bytes()
        with pytest.raises(BackupRefused, match="never overwrites"):
            take_backup(postgres.url, path)
        with pytest.raises(BackupRefused, match="restore into a new home"):
            restore_backup(path, tmp_path / "data")
        with pytest.raises(PostgresUnavailable, match="pg_basebackup failed"):
            take_backup(postgres.url.replace("postgres@", "nobody@"), tmp_path / "other.tar")

    damaged = tmp_path / "damaged.tar"
    middle = whole.index(b"PostgreSQL") if b"PostgreSQL" in whole else len(whole) // 2
    damaged.write_bytes(whole[:middle] + b"X" + whole[middle + 1 :])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    for bad in (damaged, cut):
        with pytest.raises(BackupRefused):
            restore_backup(bad, tmp_path / "new")
    assert list((tmp_path / "new").glob("cluster*")) == []
    assert not (tmp_path / "other.tar").exists()
    restore_backup(path, tmp_path / "new")


def test_a_database_somebody_is_connected_to_is_not_marked(database_url: str) -> None:
    with psycopg.connect(database_url), pytest.raises(BackupRefused, match="stop every Daybook"):
        mark_restored(database_url)
    assert mark_restored(database_url).incarnation == 2


def kept_digest(url: str) -> audit.Digest:
    with psycopg.connect(url, autocommit=True) as conn:
        return audit.digest(conn)


def test_a_digest_from_before_the_restore_stays_good_and_one_of_what_was_lost_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "backup.tar"
    with embedded_postgres(tmp_path / "data", settings=SMALL) as postgres:
        first_start(
            postgres.url, key_path=tmp_path / "key", book_id="main", open_date=BUSINESS_DATE
        )
        consume_log(postgres.url)
        good = kept_digest(postgres.url)
        take_backup(postgres.url, path)
        open_book_with_rules(postgres.url, "lost", "Lost", BUSINESS_DATE)
        beyond = kept_digest(postgres.url)

    restore_backup(path, tmp_path / "new")
    with embedded_postgres(tmp_path / "new", settings=SMALL) as postgres:
        mark_restored(postgres.url)
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            assert audit.verify(conn, digest=good).passed
            assert not audit.verify(conn, digest=beyond).passed
        later = kept_digest(postgres.url)
    with (
        embedded_postgres(tmp_path / "data", settings=SMALL) as postgres,
        psycopg.connect(postgres.url, autocommit=True) as conn,
    ):
        assert not audit.verify(conn, digest=later).passed


def stopped_lanes(started: System) -> str:
    """What the readiness says of the lanes."""
    return str(httpx.get(f"{started.url}/health/ready", timeout=60).json()["lanes"])


@pytest.mark.kafka
def test_after_a_restore_messages_of_the_log_before_are_not_believed_and_new_topics_heal(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    overrides = {"bus": "kafka", "kafka_bootstrap": kafka_bootstrap}
    settings = system_settings(home=tmp_path / "home", **overrides)
    path = tmp_path / "backup.tar"
    with own_topics(settings):
        with system(settings, open_date=BUSINESS_DATE) as first, client_of(first) as client:
            open_customer(first)
            client.post("/v1/operations", recharge("kept"))
            client.get("/v1/trial-balance", operation_id="kept", wait_s=30)
            with embedded_postgres(settings.postgres_dir) as postgres:
                take_backup(postgres.url, path)
            client.post("/v1/operations", recharge("lost", amount_minor=7_00))
            client.get("/v1/trial-balance", operation_id="lost", wait_s=30)

        again = with_overrides(settings, home=tmp_path / "new")
        restore_backup(path, again.postgres_dir)
        with embedded_postgres(again.postgres_dir) as postgres:
            mark_restored(postgres.url)
        # The old topics are still there, and the group has read them to their ends: begin anew.
        unbelieving = with_overrides(again, consumer_group=f"{again.consumer_group}.again")
        with system(unbelieving, open_date=BUSINESS_DATE) as second:
            wait_until(lambda: "another log" in stopped_lanes(second), "a lane stops, and says why")

        shell = Shell(tmp_path, {**os.environ, **variables(again)})
        try:
            done(shell, f"{Path(sys.prefix) / 'bin' / 'daybook'} restore-mark --delete-topics")
        finally:
            shell.close()
        with system(again, open_date=BUSINESS_DATE) as third, client_of(third) as client:
            client.post("/v1/operations", recharge("other", amount_minor=9_00))
            client.get("/v1/trial-balance", operation_id="other", wait_s=30)
            head = client.get("/v1/status")["log"]["position"]
            assert client.get("/v1/identity", min_position=head, wait_s=30)["data"]["holds"]
            wait_until(
                lambda: client.get("/v1/operations/other")["accounting_status"] == "vouchered",
                "the status has come back over the new topic",
            )
            with embedded_postgres(again.postgres_dir) as postgres:
                assert set(times_booked(postgres.url)) == {"kept", "other"}
                with psycopg.connect(postgres.url, autocommit=True) as conn:
                    verdict = audit.verify(conn)
                assert verdict.passed, str(verdict.difference)
