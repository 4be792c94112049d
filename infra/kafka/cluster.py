"""Several Kafka nodes on this machine: a cluster that goes on when one of them is lost.

Invariant: every node is broker and controller of one quorum, with the ports it was given at first,
so that a node that was killed finds the others again.
"""

from __future__ import annotations

import contextlib
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.kafka.broker import QUICK_JAVA, KafkaBroker, Seat, new_cluster_id

SERVER_PORTS = (20_000, 32_000)  # below those that systems give to clients


class KafkaCluster:
    """Nodes made of Java, counted from 1; a majority of them must run."""

    def __init__(self, folder: Path, *, nodes: int = 3, jars: Path | None = None) -> None:
        ports = free_ports(nodes * 2)
        cluster_id = new_cluster_id()
        self.nodes = {
            number: KafkaBroker(
                folder / f"node-{number}",
                ports[number - 1],
                engines=("java",),
                jars=jars,
                java_options=QUICK_JAVA,
                seat=Seat(number, tuple(ports[nodes:]), cluster_id),
            )
            for number in range(1, nodes + 1)
        }

    @property
    def bootstrap(self) -> str:
        """Return every node's address: any one that lives is enough to find the others."""
        return ",".join(node.bootstrap for node in self.nodes.values())

    def start(self) -> Self:
        """Start the nodes that do not run, together, and wait until each answers; or start none."""
        try:
            with ThreadPoolExecutor(len(self.nodes)) as pool:
                list(pool.map(lambda node: node.start(wait=False), self.nodes.values()))
                list(pool.map(KafkaBroker.start, self.nodes.values()))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop every node at once: the last two of three would wait for a third for ever."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(KafkaBroker.stop, self.nodes.values()))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def free_ports(count: int) -> list[int]:
    """Return different ports that nobody has at this moment, and that no client is given.

    A node that is away keeps its port only if no outgoing connection of anybody gets it meanwhile.
    """
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(*SERVER_PORTS)  # noqa: S311 - not a secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.add(port)
    return sorted(ports)
