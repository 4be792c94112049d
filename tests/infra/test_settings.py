"""Settings: read from the environment, bounded, described, frozen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from infra.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DAYBOOK_{name.upper()}", raising=False)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "infra/compose.yaml").read_text())
    return loaded


def test_defaults_are_the_embedded_mode_on_loopback() -> None:
    settings = load_settings()
    assert (settings.bus, settings.database_url) == ("log", None)
    assert settings.api_url == "http://127.0.0.1:8480"


def test_environment_overrides_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_BUS", "kafka")
    monkeypatch.setenv("DAYBOOK_PORT", "9000")
    assert (load_settings().bus, load_settings().port) == ("kafka", 9000)


def test_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_DATABASE_URL", "")
    assert load_settings().database_url is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("bus", "pigeon"), ("port", "0"), ("port", "70000"), ("batch_size_max", "none")],
)
def test_wrong_value_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"DAYBOOK_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        load_settings()


@pytest.mark.parametrize(
    ("types", "words"),
    [("payment, refund", "'refund' returns money"), ("paymnet", "nobody declared business type")],
)
def test_a_business_type_that_cannot_be_held_back_is_refused_before_anything_starts(
    types: str, words: str
) -> None:
    """The API processes ended by it, one after another, and were started again for ever."""
    with pytest.raises(ValidationError, match=words):
        Settings(backlog_types=types)


def test_message_too_small_for_two_operations_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least twice"):
        Settings(message_bytes_max=256 * 1024, operation_bytes_max=256 * 1024)


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []


def test_compose_file_names_only_settings_that_exist() -> None:
    names = {
        name
        for service in compose()["services"].values()
        for name in service.get("environment", {})
        if name.startswith("DAYBOOK_")
    }
    assert {name.removeprefix("DAYBOOK_").lower() for name in names} <= set(Settings.model_fields)


def test_compose_file_publishes_on_loopback_only() -> None:
    ports = [
        port for service in compose()["services"].values() for port in service.get("ports", [])
    ]
    assert ports != []
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_files_images_are_settings() -> None:
    images = {service["image"] for service in compose()["services"].values()}
    assert all(re.fullmatch(r"\$\{[A-Z_]+:-[^}]+\}", image) for image in images)
