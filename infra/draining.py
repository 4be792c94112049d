"""The API's server, which says that it is going before it goes.

On SIGTERM the readiness turns to 503 at once, while operations are still answered for
`drain_notice_s`, so that a balancer turns away first; then uvicorn stops listening, finishes the
requests it has and closes. Invariant: what was accepted is answered; a second signal ends the
notice, not the answers.
"""

from __future__ import annotations

import threading
from types import FrameType

import structlog

from infra.app import build_app, uvicorn_config
from infra.fair_listener import FairServer
from infra.settings import Settings

log = structlog.get_logger("infra.api")


class DrainingServer(FairServer):
    """uvicorn with a notice before its own graceful shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._app = build_app(settings)
        self._notice_s = settings.drain_notice_s
        config = uvicorn_config(settings, self._app)
        super().__init__(config, processes=settings.processes)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Turn not ready; leave when the notice is over, or at once when asked again."""
        first = not self._app.draining
        self._app.draining = True
        if not first or self._notice_s <= 0:
            super().handle_exit(sig, frame)
            return
        log.info("api_draining", notice_s=self._notice_s)
        leave = threading.Timer(self._notice_s, super().handle_exit, (sig, frame))
        leave.daemon = True
        leave.start()
