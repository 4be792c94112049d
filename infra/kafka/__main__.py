"""`python -m infra.kafka start|stop|remove|fetch`: what `make kafka` runs.

Invariant: exit code 0 means that the broker answers (start), is gone (stop, remove), or that
everything it needs is on this machine (fetch).
"""

from __future__ import annotations

import argparse
import sys

from infra.kafka.broker import ENGINES, HOW_TO_GET_ONE, BrokerUnavailable, KafkaBroker, prepare
from infra.settings import load_settings


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.kafka", description=__doc__)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--port", type=int, default=9092, help="port on 127.0.0.1 (9092)")
    chosen = parser.parse_args(arguments)
    settings = load_settings()
    broker = KafkaBroker(settings.kafka_dir, chosen.port, image=settings.kafka_image)
    try:
        return COMMANDS[chosen.command](broker)
    except BrokerUnavailable as error:
        print(error, file=sys.stderr)
        return 1


def start(broker: KafkaBroker) -> int:
    print(f"Starting Kafka on {broker.bootstrap} (the first time fetches about 43 MB) ...")
    broker.start()
    print(f"Kafka answers on {broker.bootstrap}. Stop it with: make kafka-stop")
    return 0


def stop(broker: KafkaBroker) -> int:
    print("Kafka is stopped." if broker.stop() else "No broker of this checkout runs.")
    return 0


def remove(broker: KafkaBroker) -> int:
    """Stop it and delete its data; the jars stay."""
    broker.remove()
    return 0


def fetch(broker: KafkaBroker) -> int:
    """Java first: the tests prefer it, as their broker lives and dies with them."""
    lacks = []
    for engine in reversed(ENGINES):
        lack = prepare(engine, broker.jars, broker.image)
        if lack is None:
            return 0
        lacks.append(f"{engine}: {lack}")
    raise BrokerUnavailable("\n".join([HOW_TO_GET_ONE, *lacks]))


COMMANDS = {"start": start, "stop": stop, "remove": remove, "fetch": fetch}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
