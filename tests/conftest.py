"""The fixtures every room's tests may ask for, one plugin for each real part."""

from __future__ import annotations

pytest_plugins = ["tests.fix_postgres", "tests.fix_kafka", "tests.fix_docker", "tests.fix_api"]
