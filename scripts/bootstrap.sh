#!/bin/sh
# Makes .venv and installs requirements.txt into it, unless that has been done. The copy of requirements.txt that is
# written last says what is installed; an interrupted installation leaves none and is done again.
# PYTHON names an interpreter to use; pip's own settings (PIP_*, pip.conf) apply.
set -eu
cd "$(dirname "$0")/.."

suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

installed=.venv/installed-requirements.txt
if suitable .venv/bin/python && cmp -s requirements.txt "$installed"; then
    exit 0
fi
rm -f "$installed"

if ! suitable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11 python
    fi
    found=
    for candidate in "$@"; do
        if suitable "$candidate"; then
            found=$candidate
            break
        fi
    done
    if [ -z "$found" ]; then
        echo "No Python 3.11 or newer among: $*. Install one, or name it: make PYTHON=/path/to/python3" >&2
        exit 1
    fi
    if ! "$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "$found cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
    echo "Making .venv with $("$found" --version) ..."
    "$found" -m venv --clear .venv
fi

echo "Installing the packages of requirements.txt into .venv (once) ..."
.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
cp requirements.txt "$installed"
