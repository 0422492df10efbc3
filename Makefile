# Everything below needs Python 3.11 or newer and nothing else; the first target that runs sets the rest up.

.PHONY: demo test coverage soak mutants check bench psql clean .venv
.DEFAULT_GOAL := demo

python = .venv/bin/python

demo: .venv
	@$(python) scripts/demo.py

test: .venv
	@$(python) -m pytest --quiet --numprocesses=auto

coverage: .venv
	@$(python) -m pytest --quiet --numprocesses=auto --cov --cov-fail-under=90

soak: .venv
	@$(python) -m pytest --quiet --numprocesses=auto --hypothesis-profile=soak tests/property tests/crash -k 'order_life or crash_points'
	@$(python) -m pytest --quiet -m soak --timeout=7200 tests/crash

mutants: .venv
	@$(python) -m tests.mutants

check: .venv
	@$(python) -m ruff check .
	@$(python) -m mypy .
	@$(python) -m pytest --quiet tests/unit/test_layers.py
	@$(python) -m pip check --disable-pip-version-check

bench: .venv
	@$(python) -m tests.bench

psql: .venv
	@$(python) -m embedded_postgres

clean:
	rm -rf .venv .local .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv:
	@sh scripts/bootstrap.sh
