"""What a process loads before it does anything."""

from __future__ import annotations

import subprocess
import sys

HTTP_ONLY = ("fastapi", "starlette", "uvicorn", "uvloop")
LOADED = "import sys, infra.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def test_only_the_api_command_loads_the_http_application() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "infra" in loaded
    assert not set(HTTP_ONLY) & set(loaded)
