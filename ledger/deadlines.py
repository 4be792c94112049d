"""How long a connection to PostgreSQL waits for a peer that says nothing, whoever opens it.

A peer that is gone without a word (its host lost its power, a cable was cut) sends no reset: the
kernel's own patience is two hours. Invariant: who passes these learns of it in half a minute, also
while it only waits: after 20 silent seconds the kernel asks, and asks again every 5 seconds.
"""

from __future__ import annotations

from typing import Any

CONNECT_TIMEOUT_S = 5
SILENCE_S = 20  # data that nobody acknowledges, a peer that is gone

DEADLINES: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": SILENCE_S * 1_000,
    "keepalives_idle": SILENCE_S,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
