"""What people decide between rounds, when all is at rest: rules, days, cuts, overrides.

Invariant: the model is told in the same breath, so that both sides know the same history.
"""

from __future__ import annotations

import datetime as dt
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from accounting.decided import GivenLine
from accounting.ruleset import Ruleset
from accounting.ruleset_files import SHIPPED, load_ruleset
from consumers.overrides import approve_override, propose_override
from consumers.periods import cut_day
from infra.client import DaybookClient
from infra.decision_log import decision_log
from infra.first_start import publish_rules
from projections.tables import connect_to
from tests.faults.nothing_lost import wait_for_books
from tests.soak.comparison import Differs
from tests.soak.model import BOOK, PARKED, UNBALANCED, Model, Rules

EXAMPLE = SHIPPED / "examples" / "voucher_sale.toml"
OVERRIDES_MAX = 3
MISSING = ("5001.01", "credit", 1)  # what an unbalanced payment of a history lacks


def change_rules(rng: random.Random, model: Model, url: str, _client: DaybookClient) -> str:
    """Publish other rules."""
    model.rules = Rules(rng.random() < 0.5, rng.choice(("5001.02", "5001.03")))
    publish_rules(url, BOOK, _ruleset(model.rules), maker="soak")
    return str(model.rules)


def open_next_day(_rng: random.Random, model: Model, _url: str, client: DaybookClient) -> str:
    """Open the next business date."""
    date = dt.date.fromisoformat(model.date) + dt.timedelta(days=1)
    model.date = date.isoformat()
    client.post(f"/v1/books/{BOOK}/day", {"business_date": model.date})
    return f"day {model.date}"


def cut_yesterday(rng: random.Random, model: Model, url: str, client: DaybookClient) -> str:
    """Open the next day and cut the one before it: what is parked will be dated later."""
    before = model.date
    said = open_next_day(rng, model, url, client)
    wait_for_books(url)
    with connect_to(url) as conn, decision_log(url) as decisions:
        cut_day(conn, decisions, BOOK, dt.date.fromisoformat(before), maker="soak")
    model.cut = before
    return f"{said}, {before} is cut"


def override_unbalanced(rng: random.Random, model: Model, url: str, _client: DaybookClient) -> str:
    """Two people give the voucher lines of payments that their legs leave unbalanced."""
    names = [name for name in model.open(PARKED) if model.booked[name].reason == UNBALANCED]
    chosen = sorted(rng.sample(names, min(OVERRIDES_MAX, len(names))))
    with connect_to(url) as conn, decision_log(url) as decisions:
        for name in chosen:
            lines = [*_leg_lines(model, name), GivenLine(MISSING[1], MISSING[0], "CNY", MISSING[2])]
            override_id, _ = propose_override(
                conn, decisions, BOOK, name, lines, maker="soak", accounting_date=model.date
            )
            done = approve_override(conn, decisions, override_id, checker="other", book_id=BOOK)
            if not done.performed:
                raise Differs(f"nobody performed the override of {name}")
            model.override(name, MISSING)
    return f"{len(chosen)} overrides"


DECISIONS: list[Callable[[random.Random, Model, str, DaybookClient], str]] = [
    change_rules,
    open_next_day,
    cut_yesterday,
    override_unbalanced,
]


def decide(rng: random.Random, model: Model, url: str, client: DaybookClient) -> str:
    """Decide something, or nothing; return it in words."""
    if rng.random() < 0.4:
        return ""
    said = rng.choice(DECISIONS)(rng, model, url, client)
    wait_for_books(url)
    return f"; then {said}"


def _leg_lines(model: Model, name: str) -> list[GivenLine]:
    operation = model.booked[name]
    legs = operation.body["legs"]
    return [
        GivenLine(side, subject, "CNY", amount, leg["account"])
        for leg, (subject, side, amount) in zip(legs, operation.moved, strict=True)
    ]


def _ruleset(rules: Rules) -> Ruleset:
    """The shipped rules, varied as the model's."""
    with tempfile.TemporaryDirectory(prefix="daybook-soak-rules-") as folder:
        for path in SHIPPED.glob("*.toml"):
            text = path.read_text("utf-8")
            before = '{ credit = "5001.02", amount = "fee" },\n]\n\n# --- charges'
            after = before.replace("5001.02", rules.transfer_fee)
            (Path(folder) / path.name).write_text(text.replace(before, after), "utf-8")
        loaded = load_ruleset(Path(folder), *([EXAMPLE] if rules.sells_vouchers else []))
    assert isinstance(loaded, Ruleset), loaded
    return loaded
