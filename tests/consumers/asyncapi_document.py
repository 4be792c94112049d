"""The AsyncAPI document of both topics, made from the structs that encode the messages.

`python -m tests.consumers.asyncapi_document` writes `infra/asyncapi.yaml` again after a
struct has changed; a test compares the file with what this makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from accounting.decided import (
    DayCut,
    MessageSetAside,
    OverrideApproved,
    OverrideProposed,
    OverrideRejected,
    PeriodChangeProposed,
    PeriodChangeRejected,
    PeriodClosed,
    PeriodReopened,
    PeriodsOpened,
    RepairRequested,
    RulesetPublished,
    RulesetsOpened,
)
from consumers.messages import MESSAGE_BYTES_MAX, Message
from consumers.results import ResultsMessage
from ledger.events import BookOpened, DayOpened, OperationBooked

FILE = Path(__file__).parents[2] / "infra" / "asyncapi.yaml"
REF = "#/components/schemas/{name}"
STATES = (
    OperationBooked,
    RulesetsOpened,
    RulesetPublished,
    RepairRequested,
    OverrideProposed,
    OverrideApproved,
    OverrideRejected,
    MessageSetAside,
    PeriodsOpened,
    DayCut,
    PeriodChangeProposed,
    PeriodChangeRejected,
    PeriodClosed,
    PeriodReopened,
    BookOpened,
    DayOpened,
)
TITLE = """\
Booked operations and accounting decisions travel from the ledger to the consumers, results
travel back. Each partition of `ledger.operations` is the log's own order; every message says
which stretch of the log it covers for its partition, so a repetition is recognised by
position and a loss is seen as a gap. Delivery is at least once; effects are exactly once."""
PARTITION = """\
crc32 of `<book>/<first account>` (`<book>/<operation id>` without legs) modulo the number of
partitions, which is fixed for the life of the topic. Decisions, and which day a book has
opened, go to every partition."""

OPERATIONS = {
    "relay": {
        "action": "send",
        "channel": {"$ref": "#/channels/operations"},
        "summary": "One active relay publishes the log in order.",
    },
    "consume": {
        "action": "receive",
        "channel": {"$ref": "#/channels/operations"},
        "summary": "Consumers make vouchers; offsets fence, position rows decide.",
    },
    "report": {
        "action": "send",
        "channel": {"$ref": "#/channels/results"},
        "summary": "Consumers report accounting statuses from their outbox.",
    },
    "apply": {
        "action": "receive",
        "channel": {"$ref": "#/channels/results"},
        "summary": "The ledger keeps each operation's newest status.",
    },
}


def asyncapi_document() -> dict[str, Any]:
    """Make the document."""
    types = (Message, ResultsMessage, *STATES)
    _, schemas = msgspec.json.schema_components(types, ref_template=REF)
    schemas["LogRow"]["properties"]["state"] = {
        "description": "The stored JSON of the row, byte for byte; `topic` says which.",
        "anyOf": [{"$ref": REF.format(name=state.__name__)} for state in STATES],
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Daybook",
            "version": "1.0.0",
            "description": TITLE,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "operations": {
                "address": "ledger.operations",
                "description": PARTITION,
                "messages": {"stretch": {"$ref": "#/components/messages/stretch"}},
                "bindings": {"kafka": {"topicConfiguration": {"max.message.bytes": 1048576}}},
            },
            "results": {
                "address": "accounting.results",
                "description": "Any order and any repetition: a revision only grows.",
                "messages": {"results": {"$ref": "#/components/messages/results"}},
            },
        },
        "operations": OPERATIONS,
        "components": {
            "messages": {
                "stretch": {
                    "name": "stretch",
                    "title": f"Rows of one partition, at most {MESSAGE_BYTES_MAX} bytes",
                    "payload": {"$ref": REF.format(name="Message")},
                    "bindings": {
                        "kafka": {"key": {"type": "string", "description": "book/first account"}}
                    },
                },
                "results": {
                    "name": "results",
                    "title": "Accounting statuses",
                    "payload": {"$ref": REF.format(name="ResultsMessage")},
                },
            },
            "schemas": schemas,
        },
    }


def asyncapi_text() -> str:
    """Write the document as YAML."""
    head = "# Made from the structs by `python -m tests.consumers.asyncapi_document`.\n"
    return head + yaml.safe_dump(asyncapi_document(), sort_keys=False, width=96)


if __name__ == "__main__":
    FILE.write_text(asyncapi_text())
