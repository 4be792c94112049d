"""Fixtures: a Docker engine and its images. Without an engine the tests skip and say why; with
DAYBOOK_REQUIRE_DOCKER=1 (as in CI) they fail instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from infra.settings import load_settings

ROOT = Path(__file__).parents[1]
REQUIRE = "DAYBOOK_REQUIRE_DOCKER"
PULL_TIMEOUT_S = 300
POSTGRES_IMAGE = os.environ.get("DAYBOOK_TEST_POSTGRES_IMAGE", "postgres:15")
PYTHON_IMAGE = os.environ.get("DAYBOOK_TEST_PYTHON_IMAGE", "python:3.11-slim-bookworm")

# testcontainers reads these when it is imported. Its cleaner needs one more image, and the tests
# stop what they start; and where tests run inside a container themselves, it would look for the
# published ports on the bridge instead of on this machine.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
if "DOCKER_HOST" not in os.environ:
    os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")


def docker(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a docker command; its text is in the answer, also when it fails."""
    return subprocess.run(
        ["docker", *words], check=False, capture_output=True, text=True, timeout=timeout_s
    )


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """An engine answers."""
    if shutil.which("docker") is None:
        _go_without("there is no docker command")
    if docker("info", timeout_s=20).returncode != 0:
        _go_without("no Docker engine answers")


@pytest.fixture(scope="session")
def postgres_image(docker_engine: None) -> str:
    """The oldest PostgreSQL we support; the embedded server is the newest."""
    return _image(POSTGRES_IMAGE)


@pytest.fixture(scope="session")
def python_image(docker_engine: None) -> str:
    return _image(PYTHON_IMAGE)


@pytest.fixture(scope="session")
def kafka_image(docker_engine: None) -> str:
    return _image(load_settings().kafka_image)


@pytest.fixture(scope="session")
def daybook_image(python_image: str) -> Iterator[str]:
    """Daybook's own image, built from this checkout and removed at the end."""
    tag = f"daybook-test:{uuid.uuid4().hex[:12]}"
    words = ("--network=host", "--file", str(ROOT / "infra/Dockerfile"), "--tag", tag)
    built = docker(
        *("build", *words, "--build-arg", f"PYTHON_IMAGE={python_image}", str(ROOT)), timeout_s=600
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    yield tag
    docker("image", "rm", "--force", tag)


@pytest.fixture(scope="session")
def compose_command(docker_engine: None) -> tuple[str, ...]:
    """The compose plugin, or the older program of the same language."""
    if docker("compose", "version").returncode == 0:
        return ("docker", "compose")
    if shutil.which("docker-compose") is None:
        _go_without("there is neither docker compose nor docker-compose")
    return ("docker-compose",)


def _image(name: str) -> str:
    if docker("image", "inspect", name).returncode != 0:
        try:
            pulled = docker("pull", "--quiet", name, timeout_s=PULL_TIMEOUT_S).returncode == 0
        except subprocess.TimeoutExpired:
            pulled = False
        if not pulled:
            _go_without(f"the image {name} is not here and cannot be pulled")
    return name


def _go_without(reason: str) -> NoReturn:
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{reason}, and {REQUIRE}=1 asks for it")
    pytest.skip(reason)
