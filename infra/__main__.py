"""`python -m infra` is `daybook`: the same entry for people and for the supervisor's children."""

from __future__ import annotations

from infra.cli import main

if __name__ == "__main__":
    main()
