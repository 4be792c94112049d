"""Several of a kind at once: a consumer joins in mid-batch, one wakes when its partitions have
moved, two relays are active; and the results process is killed."""

from __future__ import annotations

import random
from signal import SIGSTOP

import pytest

from tests.faults.kafka_scene import KafkaScene
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.verdicts import Fault
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
SELECT_RELAY = "SELECT epoch, position FROM ledger.relays WHERE topic = %s"


def freeze_at(scene: KafkaScene, step: str, part: str, *, after: int = 0) -> int:
    """Stop a part in its tracks at a step; return its process id, for `thaw`."""
    pid = scene.system.children[part]
    scene.system.arm(step, after=after, number=SIGSTOP)
    wait_until(scene.system.was_taken, f"{part} reaches {step}")
    return pid


def test_a_second_consumer_joins_in_the_middle_of_a_batch_and_leaves(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "Kafka: rebalance in the middle of a batch"
    with on_kafka.load(fault.seed, "join") as load:
        load.wait_for_more(30)
        inside = freeze_at(on_kafka, "handled", "consumer", after=fault.seed % 3)
        with on_kafka.another("consume"):
            wait_until(lambda: on_kafka.members() == [], "the group rebalances")
            on_kafka.thaw(inside)
            wait_until(lambda: len(on_kafka.members()) == 2, "both have joined")
            load.wait_for_more(40)
            on_kafka.wait_for_books(on_kafka.head())
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("what the first had written it did not write again, nor the second")


def test_a_zombie_wakes_inside_its_transaction_when_its_partitions_have_moved(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "Kafka: zombie wakes after its partitions moved"
    with on_kafka.load(fault.seed, "zombie") as load, on_kafka.another("consume"):
        wait_until(lambda: len(on_kafka.members()) == 2, "both have joined")
        zombie = freeze_at(on_kafka, "handled", "consumer", after=fault.seed % 3)
        wait_until(lambda: len(on_kafka.members()) == 1, "the zombie is given up")
        on_kafka.wait_for_books(on_kafka.head())  # its lock is gone too
        load.wait_for_more(20)
        on_kafka.thaw(zombie)
        wait_until(lambda: len(on_kafka.members()) == 2, "the zombie joins again")
        assert on_kafka.system.children["consumer"] == zombie
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the database ended the zombie's transaction; it began anew")


def test_two_relays_are_active_at_once(on_kafka: KafkaScene, fault: Fault) -> None:
    fault.name = "Kafka: two relays at once"
    step = random.Random(fault.seed).choice(["sending", "sent"])
    with on_kafka.load(fault.seed, "relays") as load:
        load.wait_for_more(30)
        wait_until(lambda: on_kafka.rows(SELECT_RELAY, on_kafka.topic), "a relay is active")
        ((epoch, _),) = on_kafka.rows(SELECT_RELAY, on_kafka.topic)
        with on_kafka.another("relay"):
            first = freeze_at(on_kafka, step, "relay")
            head = on_kafka.head() + 1
            wait_until(lambda: relay_is_past(on_kafka, epoch, head), "the second takes over")
            on_kafka.thaw(first)  # and sends what it had still to send
            load.wait_for_more(40)
            assert on_kafka.system.children["relay"] == first
            on_kafka.wait_for_books(on_kafka.head())
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the second raised the epoch; the first saved nothing and stood by")


def relay_is_past(scene: KafkaScene, epoch: int, position: int) -> bool:
    """Whether a later relay has sent everything up to a position."""
    ((now, reached),) = scene.rows(SELECT_RELAY, scene.topic)
    return bool(now > epoch and reached >= position)


def test_the_results_process_is_killed_between_its_transaction_and_its_offsets(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "kill -9: results, after its transaction"
    with on_kafka.load(fault.seed, "results") as load:
        load.wait_for_more(30)
        on_kafka.system.kill_at("applied", "results", after=fault.seed % 3)
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("the supervisor started another one; a status only grows")
