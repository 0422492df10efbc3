"""Says plainly what to do when a program is started without the project's packages; imported first by each."""

import sys
from importlib.util import find_spec

PACKAGES = ("alpaca", "dotenv", "psycopg2", "requests", "rich")

missing = [name for name in PACKAGES if find_spec(name) is None]
if missing:
    print(
        f"{sys.argv[0]}: {', '.join(missing)} cannot be imported by {sys.executable}; run `make demo` once, "
        "then use .venv/bin/python or `. .venv/bin/activate`",
        file=sys.stderr,
    )
    raise SystemExit(2)
