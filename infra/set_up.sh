#!/bin/sh
# Make .venv and install exactly what the lock file names (by hash), then Daybook itself.
# Needs a Python of at least 3.11 and nothing else. `make setup` runs it only when a lock changed.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

modern() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# 1. Find a Python that is new enough: the one asked for, else the machine's.
python=""
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 && modern "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    say "Daybook needs Python 3.11 or newer, and none was found on the PATH."
    say "Install it, or name it: make setup PYTHON=/path/to/python3.12"
    exit 1
fi

# 2. The virtual environment. Debian packs venv apart from Python, so its absence gets a plain message.
if ! { [ -x .venv/bin/python ] && modern .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    rm -rf .venv
    if ! "$python" -m venv .venv; then
        rm -rf .venv
        say ""
        say "$python cannot make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)."
        exit 1
    fi
fi

# 3. Exactly the locked versions, then Daybook itself without touching them.
say "Installing the locked libraries into .venv (the first time takes about a minute) ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
touch .venv/.set-up
say "Ready: .venv/bin/daybook"
