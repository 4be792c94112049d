"""What a command says when it cannot: a stable code first, then what happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.backup import BackupRefused
from infra.cli import words_of
from infra.cli.exit_codes import ExitCode
from infra.relay import RelayRefused
from ledger.errors import NotFound
from tests.infra.commands import in_this_process

COPIED_WRONGLY = (
    b'{"log_id":"a8238489-b0d0-459f-997a-deb3c4461ca3","incarnation":1,"last_id":63,"seal":"2ceb",'
    b'"booked_at":"2026-11-27T00:26:44.008567Z","hash":"c9c6"}'
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RelayRefused("at 1, before 2"), "relay_refused: at 1, before 2"),
        (BackupRefused("it is there"), "backup_refused: it is there"),
        (NotFound("no book"), "not_found: no book"),
    ],
)
def test_every_error_is_said_by_a_code_and_none_by_the_name_of_a_class(
    error: Exception, words: str
) -> None:
    assert words_of(error) == words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no digest"),
        (b"\x80 not even text", "decode"),
        (b'{"log_id": 1}', "no digest"),
        (COPIED_WRONGLY, "copied wrongly"),
    ],
)
def test_a_kept_digest_that_cannot_be_read_is_wrong_usage_and_no_defect(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, words: str
) -> None:
    kept = tmp_path / "digest.txt"
    kept.write_bytes(content)
    ended = in_this_process(capsys)("audit", "verify", "--against", str(kept))
    assert ended.code == ExitCode.USAGE
    assert str(kept) in ended.err
    assert words in ended.err
