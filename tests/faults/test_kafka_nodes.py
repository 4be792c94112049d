"""Kafka's nodes are lost, one or all: posting goes on, and the books follow when they can."""

from __future__ import annotations

import pytest

from infra.kafka import KafkaBroker
from tests.faults.kafka_scene import KafkaScene
from tests.faults.nothing_lost import assert_nothing_lost
from tests.faults.verdicts import Fault

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def leader_of(scene: KafkaScene, partition: int) -> KafkaBroker:
    """The node that leads a partition of the operations topic."""
    with scene.admin() as admin:
        (description,) = admin.describe_topics([scene.topic])
    (leader,) = (
        each["leader_id"]
        for each in description["partitions"]
        if each["partition_index"] == partition
    )
    return scene.cluster.nodes[leader]


def test_the_leader_of_a_partition_is_killed_and_another_node_leads(
    on_kafka: KafkaScene, fault: Fault
) -> None:
    fault.name = "Kafka: leader lost, one of three nodes"
    with on_kafka.load(fault.seed, "leader") as load:
        load.wait_for_more(60)
        lost = leader_of(on_kafka, fault.seed % 3)
        lost.kill()
        load.wait_for_more(60)
        on_kafka.wait_for_books(on_kafka.head())  # while the node is away
    assert_nothing_lost(on_kafka.system.database_url, load)
    assert leader_of(on_kafka, fault.seed % 3) is not lost
    lost.start()
    fault.recovered("another node leads; the books followed while the first was away")


@pytest.mark.parametrize("way", ["stopped", "killed with -9"])
def test_the_whole_cluster_goes_away_under_load_and_comes_back(
    on_kafka: KafkaScene, fault: Fault, way: str
) -> None:
    fault.name = f"Kafka: every node {way}, then started"
    with on_kafka.load(fault.seed, way[:6]) as load:
        load.wait_for_more(60)
        if way == "stopped":
            on_kafka.cluster.stop()
        else:
            for node in on_kafka.cluster.nodes.values():
                node.kill()
        load.wait_for_more(200)  # posting does not need Kafka
        on_kafka.cluster.start()
        load.wait_for_more(20)
    assert_nothing_lost(on_kafka.system.database_url, load)
    fault.recovered("posting went on; relay and consumers came back by themselves")
