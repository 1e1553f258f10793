# Everything runs in .venv, made here with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := app jobs trainer migrations tests bench

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.serving: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing what serving and the default recipe need (a minute) …"
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.full: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing everything that tests and checks need (some minutes: torch is among it) …"
	@$(PIP) install --constraint constraints.txt torch==2.13.0 --editable '.[postgresql,mysql,plot,parquet,dev]'
	@touch $@ $(VENV)/.serving

.PHONY: demo
demo: $(VENV)/.serving ## Watch the loop close on the bundled sample domain (KEEP=1 leaves it running)
	@$(BIN)/intentloop demo $(if $(KEEP),--keep)

.PHONY: serve
serve: $(VENV)/.serving ## Run service and clock on 127.0.0.1:8001, data in ./data
	@$(BIN)/intentloop up

.PHONY: test
test: $(VENV)/.full ## Run the tests, in under ten minutes; PostgreSQL and MariaDB too where they are installed
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not long' $(ARGS)

.PHONY: test-long
test-long: $(VENV)/.full ## Run the long tests: whole loops, kills, copies of databases, neural training
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m long $(ARGS)

.PHONY: coverage
coverage: $(VENV)/.full ## Run all tests and measure which lines they reach, in every process
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --fail-under=90

.PHONY: check
check: $(VENV)/.full ## Format, lint, types and import rules; no tests
	@$(BIN)/ruff format --check --quiet $(SOURCES) || { $(BIN)/ruff format --diff $(SOURCES); exit 1; }
	@$(BIN)/ruff check --quiet $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.full ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format --quiet $(SOURCES)
	@$(BIN)/ruff check --fix --quiet $(SOURCES)

.PHONY: bench
bench: $(VENV)/.full ## List the benchmarks; make bench NAME=… runs one
	@$(BIN)/python -m bench $(NAME) $(ARGS)

.PHONY: torture
torture: $(VENV)/.full ## Run the long tortures, all of them: hours; make torture NAME=… runs one
	@$(BIN)/python -m tests.torture $(or $(NAME),--all) $(ARGS)

.PHONY: clean
clean: ## Remove the environment and every cache; data stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* *.egg-info
