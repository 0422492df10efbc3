"""Outside data into rows: each source an adapter with its own normaliser and natural key, each run recorded."""

import requirements_check  # noqa: F401
