# make demo   a server with the small demo model on port 8000
# make test   every test, those on the real engine included
# make lint   what CI checks before the tests
# make bench  this server against sglang.launch_server: docs/performance.md

PYTHON ?= python3.11
PORT ?= 8000
VENV := .venv
UV := $(VENV)/bin/uv
UV_VERSION := 0.13.8
# Where Python may not write bytecode each start compiles it anew: a second more until the port
# answers, and the engine's processes import SGLang each for themselves.
COMPILED := --compile-bytecode

.PHONY: demo test test-fast test-live lint bench docs lock clean

demo: $(VENV)/.installed
	@echo "==> serving the demo model on http://localhost:$(PORT) (about a minute until it is ready)"
	exec $(VENV)/bin/python serve_hathora.py --demo --port $(PORT)

test: test-fast test-live

# Everything that needs no engine, two at a time.
test-fast: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -m "not live" $(ARGS)

test-live: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest -m live $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# make bench ARGS="--model demo --rounds 1"
bench: $(VENV)/.installed-dev
	$(VENV)/bin/python -m bench compare $(ARGS)

docs: $(VENV)/.installed
	$(VENV)/bin/python serve_hathora.py settings --markdown > docs/settings.md

# Pin the whole tree anew.
lock: $(UV)
	$(UV) pip compile -q --upgrade --python-version 3.11 --no-emit-index-url --no-header --no-annotate requirements.in -o requirements.txt
	$(UV) pip compile -q --upgrade --python-version 3.11 --no-emit-index-url --no-header --no-annotate requirements-runpod.in -o requirements-runpod.txt
	$(UV) pip compile -q --upgrade --python-version 3.11 --no-emit-index-url --no-header --no-annotate requirements-dev.in -o requirements-dev.txt
	$(VENV)/bin/python deploy/docker/lock.py

$(UV):
	@echo "==> making $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.installed: requirements.txt $(UV)
	@echo "==> installing requirements.txt (10 GB of SGLang, PyTorch and CUDA; half a minute with a warm cache)"
	$(UV) pip install $(COMPILED) --python $(VENV)/bin/python -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "==> installing requirements-dev.txt"
	$(UV) pip install $(COMPILED) --python $(VENV)/bin/python -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
