"""Which code is at work: a digest of its files, kept with every message to the broker that changes something."""

import hashlib
from pathlib import Path

TESTS = "tests"
DIGITS = 16


def digest_of(root: Path) -> str:
    """Return hex digits of a SHA-256 over the names and contents of the modules, packages and SQL files in a directory.

    Raises OSError.
    """
    digest = hashlib.sha256()
    for path in sorted({*root.glob("*.py"), *root.glob("[!.]*/*.py"), *root.glob("sql/**/*.sql")}):
        name, content = path.relative_to(root), path.read_bytes()
        if name.parts[0] != TESTS:
            digest.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:DIGITS]


# Taken when a process begins: files that change later are not what it runs.
CODE_VERSION = digest_of(Path(__file__).resolve().parent)
