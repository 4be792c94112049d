"""The `eventsourcing` library's own recorder test cases, imported without its cipher.

Its module of test cases imports a cipher that needs a package Daybook has no use for; the
cases that are run here never touch it.
"""

from __future__ import annotations

import sys
import types

_cipher = types.ModuleType("eventsourcing.cipher")
_cipher.AESCipher = object  # type: ignore[attr-defined]
sys.modules.setdefault("eventsourcing.cipher", _cipher)

from eventsourcing.tests import persistence  # noqa: E402

# Held as attributes of a module: a test file that imported the classes would run them as well.
ApplicationCases = persistence.ApplicationRecorderTestCase
AggregateCases = persistence.AggregateRecorderTestCase
NonInterleavingCases = persistence.NonInterleavingNotificationIDsBaseCase
