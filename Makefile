# The two commands a new user needs: make quickstart, make test. Everything is installed into .venv here, nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test lint bundle peers clean

quickstart: $(VENV)/.installed ## raw web pages to a chat model, then one question to it
	$(BIN)/bloomery run quickstart
	@echo; echo 'One question to the model (talk to it: $(BIN)/bloomery chat quickstart):'
	@echo; echo '> Put each word in brackets: stack order view'
	@$(BIN)/bloomery chat quickstart --prompt 'Put each word in brackets: stack order view'

test: $(VENV)/.installed-dev ## the whole test suite
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev ## ruff (lint and format) and the type checker
	$(BIN)/ruff check src tests docs bench examples
	$(BIN)/ruff format --check src tests docs bench examples
	$(BIN)/mypy

bundle: ## the pages of `bloomery web` from frontend/ (needs Node.js; users do not: the bundle is committed)
	cd frontend && npm ci --no-audit --no-fund --ignore-scripts && node build.mjs

peers: ## other tools that bench/ measures us against, in .venv-peers
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers/requirements.txt

clean: ## removes the environment, caches and builds; keeps runs/
	rm -rf $(VENV) .venv-peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests docs bench -name __pycache__ -prune -exec rm -rf {} +

# torch goes first and alone: constraints.txt pins the version whose CPU build pip finds; a bare `torch` would bring CUDA.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"bloomery needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12 ...")'
	@echo "installing bloomery into $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	touch $@
