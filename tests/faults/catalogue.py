"""The issue's list of faults, in its order: which verdicts belong to each, and which have none.

Invariant: a fault of the list is never silently absent: after a whole run it has verdicts, or its
line says that there are none and the run has failed.
"""

from __future__ import annotations

import re

from tests.faults.verdicts import NONE, Fault

LIST = {
    "engine killed at each step": r"^kill -9: engine, ",
    "engine that decides ahead killed at each step": r"^kill -9: engine that decides ahead, ",
    "relay killed at each step": r"^kill -9: relay, ",
    "consumer killed at each step": r"^kill -9: consumer, ",
    "results killed": r"^kill -9: results, ",
    "repair killed at each step": r"^kill -9: repair, |^kill -9: consumer, while it performs",
    "rebuild and its swap killed at each step": r"^kill -9: rebuild, ",
    "sweep killed at each step": r"^kill -9: sweep, ",
    "reply to COMMIT lost": r"^reply to COMMIT lost",
    "database stopped and started": r"^database: (stopped|lost its power) and started",
    "database connections killed": r"^database: every connection cut",
    "database read-only": r"^database: read-only",
    "database's disk full": r"^database: disk full",
    "lock held by somebody for 30 s": r"^database: lock held",
    "deadlock victim": r"^database: .*deadlock",
    "serialization failure": r"^database: serialization failure",
    "failover to a synchronous standby": r"^database: failover",
    "Kafka's broker stopped and started": r"^Kafka: every node",
    "Kafka's leader lost with three brokers": r"^Kafka: leader lost",
    "Kafka's topic deleted and recreated": r"^Kafka: (results )?topic deleted",
    "Kafka's retention passed the consumer": r"^Kafka: retention",
    "message duplicated": r"^Kafka: messages duplicated",
    "messages reordered across partitions": r"^Kafka: messages reordered",
    "message truncated": r"^Kafka: truncated",
    "message foreign": r"^Kafka: foreign",
    "message oversized": r"^Kafka: (oversized|our message oversized)",
    "rebalance in the middle of a batch": r"^Kafka: rebalance",
    "zombie consumer": r"^Kafka: zombie",
    "two relays at once": r"^Kafka: two relays",
    "clock jumps back": r"^clock: jumps back",
    "clock jumps forward over midnight": r"^clock: jumps forward",
    "two hosts minutes apart": r"^clock: two hosts",
    "same operation by 50 callers at once": r"^client: the same operation",
    "answer never read": r"^client: answers are never read",
    "half a body": r"^client: hangs up after half",
    "slow body": r"^client: slow body",
    "10,000 connections": r"^client: 10,000 connections",
}


def standing_of(faults: list[Fault]) -> list[str]:
    """Say of each fault of the list how many of its tests held; in the list's order."""
    lines = []
    for what, pattern in LIST.items():
        found = [each for each in faults if re.search(pattern, each.name)]
        held = sum(each.verdict == "held" for each in found)
        judged = any(each.verdict != NONE for each in found)
        verdict = f"{held} of {len(found)} held" if judged else NONE
        lines.append(f"{what:<48}{verdict}")
    return lines
