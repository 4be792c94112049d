"""Write the event schemas anew: `python -m ledger.event_schemas`."""

from __future__ import annotations

from ledger.event_schemas import FOLDER, write_schemas

if __name__ == "__main__":
    written = write_schemas()
    for name in written:
        print(f"wrote {FOLDER / name}")
    print(f"{len(written)} schemas written" if written else "every schema is as it should be")
