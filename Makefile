# `make help` lists the targets. CONTRIBUTING.md says which to use when.

PYTHON ?= python3.11
PORT ?= 8000
TOOLS := .tools
UV := $(TOOLS)/bin/uv
UV_VERSION := 0.13.8
FULL := .venv
LIGHT := .venv-light
SITE := .venv-site
# Processes that run at a time in the light suite, half of which waits. `make test-light JOBS=16`.
JOBS ?= 4
INSTALL := $(UV) pip install --python
COMPILE := $(UV) pip compile -q --python-version 3.11 --no-emit-index-url --no-header --no-annotate
LOCK_CLIENTS := $(COMPILE) --upgrade
LOCK := $(LOCK_CLIENTS) pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help try demo site test test-light test-page test-page-short pictures test-full test-agents test-fast test-live test-rare test-vlm test-templates test-images contract upgrade demo-vlm test-clients test-clients-short chaos lint format typos bench wheel docs lock lock-clients clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*  ## (.*)/  make \1|\2/' | column -t -s '|'

# -- serving ---------------------------------------------------------------------------------------

try: $(LIGHT)/.installed  ## serve a scripted engine on port 8000 (PORT=8001): every endpoint, no model, in seconds
	exec $(LIGHT)/bin/python serve_hathora.py --engine scripted --log-file= --port $(PORT)

demo: $(FULL)/.installed-demo  ## serve a small real model on port 8000 (PORT=8001); installs 10 GB
	@echo "==> serving the demo model on http://localhost:$(PORT) (about a minute until it is ready)"
	exec $(FULL)/bin/python serve_hathora.py --demo --port $(PORT)

demo-vlm: $(FULL)/.installed-demo  ## serve a tiny random model that takes pictures on port 8000: nonsense, but seen
	exec $(FULL)/bin/python serve_hathora.py --model-path "$$($(FULL)/bin/python -m bench.vision)" --served-model-name tiny-random-vlm --port $(PORT)

# -- checking --------------------------------------------------------------------------------------

lint: $(LIGHT)/.installed  ## what CI checks before the tests: ruff, mypy, spelling
	$(LIGHT)/bin/ruff check .
	$(LIGHT)/bin/ruff format --check .
	$(LIGHT)/bin/mypy
	$(LIGHT)/bin/typos

format: $(LIGHT)/.installed  ## format the code, sort imports
	$(LIGHT)/bin/ruff check --fix --quiet .
	$(LIGHT)/bin/ruff format .

test: test-light test-full test-live  ## every test

test-light: $(LIGHT)/.installed  ## the tests that need no SGLang, in the light environment
	$(LIGHT)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not live and not full and not agents and not clients and not images and not page" $(ARGS)

# Each of a short run takes well under a second; the others are a megabyte of text each.
test-page: $(LIGHT)/.installed-page  ## the page at `/` in Chromium (apt-get install chromium): three minutes
	$(LIGHT)/bin/python -m pytest -m page $(ARGS) tests/page

test-page-short: ARGS += -k "not megabyte"
test-page-short: test-page  ## without the megabytes of text: all of the page that CI tests

pictures: $(LIGHT)/.installed-page  ## take docs/page-chat.png and docs/page-state.png in Chromium
	folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && \
	PROMETHEUS_MULTIPROC_DIR="$$folder" $(LIGHT)/bin/python -m tests.page.pictures $(ARGS)

test-full: $(FULL)/.installed-dev  ## the tests that need SGLang installed, but no engine
	$(FULL)/bin/python -m pytest -n 2 --dist worksteal -m "full and not live and not agents and not images" $(ARGS)

test-live: $(FULL)/.installed-dev  ## the tests on the real engine with the demo model
	$(FULL)/bin/python -m pytest -m "live and not rare" $(ARGS)

test-rare: $(FULL)/.installed-dev  ## those of minutes each, which CI leaves out: several nodes, several engines
	$(FULL)/bin/python -m pytest -m rare $(ARGS)

test-vlm: $(FULL)/.installed-dev  ## pictures on the real engine, every family of models that is known to work
	$(FULL)/bin/python -m pytest tests/live/test_pictures.py tests/live/test_pictures_processes.py $(ARGS)

# Other releases of SGLang than the pinned one; the first four that the index has.
RELEASES ?= $$($(TOOLS)/bin/python -m pip index versions sglang 2>/dev/null | sed -n 's/^Available versions: //p' | tr -d , | cut -d' ' -f1-4)
contract: $(FULL)/.installed-dev  ## what moved in SGLang's newest four releases, of what this program relies on; RELEASES="0.5.22 0.5.21"
	@releases="$(RELEASES)"; \
	test -n "$$releases" || { echo "the index names no release of SGLang; set RELEASES"; exit 2; }; \
	failed=; for release in $$releases; do \
	    echo "==> SGLang $$release"; mkdir -p .releases/$$release; \
	    $(INSTALL) $(FULL)/bin/python --quiet --no-deps --target .releases/$$release sglang==$$release || { failed="$$failed $$release"; continue; }; \
	    told=$$(PYTHONPATH=.releases/$$release $(FULL)/bin/python -m app.engine.sglang.moved 2>.releases/$$release.log); \
	    code=$$?; echo "$$told"; \
	    if test $$code -gt 1 || test -z "$$told"; then \
	        tail -n 3 .releases/$$release.log; failed="$$failed $$release"; \
	    fi; \
	done; \
	test -z "$$failed" || { echo "could not be tried:$$failed"; exit 2; }

# In an environment of its own, with what that release asks for.
NEXT = .releases/environment-$(SGLANG)
# Packages that this machine cannot have, and that the tests do without: WITHOUT="cuda-tile|humming".
WITHOUT ?= none
upgrade: $(UV)  ## another release of SGLang: what moved, then the live tests on it; SGLANG=0.5.24, ARGS="-k streams"
	@test -n "$(SGLANG)" || { echo "make upgrade SGLANG=x.y.z"; exit 2; }
	@mkdir -p $(NEXT)
	@sed 's/"sglang==[^"]*"/"sglang==$(SGLANG)"/' pyproject.toml > $(NEXT)/pyproject.toml
	@echo "==> what SGLang $(SGLANG) needs, into $(NEXT) (up to 10 GB)"
	@# What that release does not ask for otherwise stays as it is pinned here.
	@cp requirements/dev.txt $(NEXT)/requirements.txt
	@$(COMPILE) $(NEXT)/pyproject.toml --all-extras -o $(NEXT)/requirements.txt
	@test -d $(NEXT)/venv || $(UV) venv -q --python $(PYTHON) $(NEXT)/venv
	@sed -i -E '/^($(WITHOUT))==/d' $(NEXT)/requirements.txt
	@$(INSTALL) $(NEXT)/venv/bin/python --compile-bytecode --no-deps -r $(NEXT)/requirements.txt
	@if $(NEXT)/venv/bin/python -m app.engine.sglang.moved 2>/dev/null; then \
	    $(NEXT)/venv/bin/python -m pytest -m "live and not rare" $(ARGS); \
	else \
	    echo "==> until that is mended, the model is served by SGLang's public API only:"; \
	    $(NEXT)/venv/bin/python -m pytest tests/live/test_public_api.py $(ARGS); \
	fi

TEMPLATES_DIR ?= .templates
test-templates: $(FULL)/.installed-dev $(TEMPLATES_DIR)/.fetched  ## agents' sessions through the chat templates of seventy models, two minutes
	CHAT_TEMPLATES=$(TEMPLATES_DIR) $(FULL)/bin/python -m pytest tests/engine/test_templates.py -rP $(ARGS)

IMAGES_DIR ?= .images
test-images: $(FULL)/.installed-demo $(FULL)/.installed-dev  ## build the three images and run them, on a Docker Engine; 15 GB in IMAGES_DIR=.images
	IMAGES_DIR=$(IMAGES_DIR) $(FULL)/bin/python -m pytest -m images tests/images -rP $(ARGS)

AGENTS_DIR ?= .agents
test-agents: $(FULL)/.installed-dev $(AGENTS_DIR)/.installed  ## Codex and Claude Code against a scripted engine; AGENT_RUNS=20
	AGENTS_DIR=$(AGENTS_DIR) $(FULL)/bin/python -m pytest -m agents $(ARGS)
# Other projects' clients, each as it is installed from its package registry, against this server.
# ANSWERS: of `tests/clients/test_accumulators.py`.
ANSWERS ?= 500
CLIENTS_DIR ?= .clients
SERVERS_AND_SDKS := $(LIGHT)/.installed $(FULL)/.installed $(CLIENTS_DIR)/sdks/.installed
CLIENTS := $(patsubst %,$(CLIENTS_DIR)/%/.installed,agents frameworks aider node)
TEST_CLIENTS = CLIENTS_DIR=$(CLIENTS_DIR) ANSWERS=$(ANSWERS) $(LIGHT)/bin/python -m pytest -m clients

test-clients: $(SERVERS_AND_SDKS) $(CLIENTS)  ## clients of other projects, unchanged; installs 2.9 GB into CLIENTS_DIR=.clients
	$(TEST_CLIENTS) tests/clients $(ARGS)

test-clients-short: ANSWERS = 40
test-clients-short: $(SERVERS_AND_SDKS) $(CLIENTS_DIR)/node/.installed-short  ## the most used of them, the SDKs; 700 MB, two and a half minutes
	$(TEST_CLIENTS) tests/clients/test_sdks.py tests/clients/test_accumulators.py $(ARGS)

MINUTES ?= 60
chaos: $(FULL)/.installed-dev  ## faults of every kind done to servers under load; MINUTES=60
	$(FULL)/bin/python -m tests.chaos.storm --minutes $(MINUTES)

test-fast: $(FULL)/.installed-dev  ## light and full at once, in the full environment
	$(FULL)/bin/python -m pytest -n 2 --dist worksteal -m "not live and not agents and not clients and not images and not page" $(ARGS)

bench: $(FULL)/.installed-dev  ## against sglang.launch_server; ARGS="--model demo --rounds 1"
	$(FULL)/bin/python -m bench compare $(ARGS)

wheel: $(UV)  ## build the wheel and the source archive into dist/
	$(UV) build

# -- generated files -------------------------------------------------------------------------------

docs: $(LIGHT)/.installed  ## write docs/settings.md and docs/architecture.svg
	$(LIGHT)/bin/python serve_hathora.py settings --markdown > docs/settings.md
	$(LIGHT)/bin/python docs/architecture_svg.py > docs/architecture.svg

site: $(SITE)/.installed  ## the documents as a site, in build/site/html; fails if a link leads nowhere
	$(SITE)/bin/python docs/site_pages.py
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict --quiet

lock: $(UV)  ## pin the newest release of everything
	$(LOCK) --extra engine -o requirements.txt
	$(LOCK) --all-extras -c requirements.txt -o requirements/dev.txt
	$(LOCK) --extra engine --extra demo -c requirements/dev.txt -o requirements/demo.txt
	$(LOCK) --extra runpod -c requirements/dev.txt -o requirements/runpod.txt
	$(LOCK) --extra runpod --extra light -c requirements/dev.txt -o requirements/light.txt
	$(LOCK_CLIENTS) requirements/site.in -o requirements/site.txt
	$(FULL)/bin/python deploy/docker/lock.py

# -- environments ----------------------------------------------------------------------------------

$(UV):
	@echo "==> installing uv into $(TOOLS)"
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(LIGHT)/.installed: requirements/light.txt $(UV)
	@echo "==> installing requirements/light.txt (390 MB; seconds with a warm cache)"
	@test -d $(LIGHT) || $(UV) venv -q --python $(PYTHON) $(LIGHT)
	$(INSTALL) $(LIGHT)/bin/python --compile-bytecode -r requirements/light.txt
	@touch $@

$(SITE)/.installed: requirements/site.txt $(UV)
	@echo "==> installing requirements/site.txt (mkdocs-material, 70 MB)"
	@test -d $(SITE) || $(UV) venv -q --python $(PYTHON) $(SITE)
	$(INSTALL) $(SITE)/bin/python -r requirements/site.txt
	@touch $@

$(LIGHT)/.installed-page: tests/page/requirements.txt $(LIGHT)/.installed
	$(INSTALL) $(LIGHT)/bin/python --compile-bytecode -r tests/page/requirements.txt
	@touch $@

$(FULL)/.installed: requirements.txt $(UV)
	@# The engine's processes import SGLang each for themselves, some at the same time.
	@echo "==> installing requirements.txt (10 GB of SGLang, PyTorch and CUDA; with all of it in the cache, one to two minutes)"
	@test -d $(FULL) || $(UV) venv -q --python $(PYTHON) $(FULL)
	$(INSTALL) $(FULL)/bin/python --compile-bytecode -r requirements.txt
	@touch $@

$(FULL)/.installed-demo: requirements/demo.txt $(FULL)/.installed
	$(INSTALL) $(FULL)/bin/python --compile-bytecode -r requirements/demo.txt
	@touch $@

$(FULL)/.installed-dev: requirements/dev.txt $(FULL)/.installed
	@echo "==> installing requirements/dev.txt"
	$(INSTALL) $(FULL)/bin/python --compile-bytecode -r requirements/dev.txt
	@touch $@

# llama.cpp's collection of chat templates, as llama-cpp-python's source archive holds it.
$(TEMPLATES_DIR)/.fetched: $(UV)
	@echo "==> fetching chat templates into $(TEMPLATES_DIR) (77 MB, of which 0.4 are kept; a minute)"
	@mkdir -p $(TEMPLATES_DIR)
	$(TOOLS)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
	    --dest $(TEMPLATES_DIR) llama-cpp-python==0.3.36
	tar -xzf $(TEMPLATES_DIR)/llama_cpp_python-0.3.36.tar.gz -C $(TEMPLATES_DIR) \
	    --strip-components=5 --wildcards '*/vendor/llama.cpp/models/templates/*.jinja'
	rm $(TEMPLATES_DIR)/llama_cpp_python-0.3.36.tar.gz
	@touch $@

$(AGENTS_DIR)/.installed: tests/agents/package.json
	@echo "==> installing Codex and Claude Code into $(AGENTS_DIR) (800 MB)"
	@mkdir -p $(AGENTS_DIR)
	cp tests/agents/package.json $(AGENTS_DIR)/
	cd $(AGENTS_DIR) && npm install --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# One environment for each set of clients that agree about the packages they need.
$(CLIENTS_DIR)/%/.installed: tests/clients/requirements-%.txt $(UV)
	@echo "==> installing the clients of $<"
	@test -d $(@D) || $(UV) venv -q --python $(PYTHON) $(@D)
	$(INSTALL) $(@D)/bin/python -r $<
	@touch $@

# Not `npm ci`: it refuses a lock without opencode's programs for other systems, which npm leaves out
# where it cannot reach them. A copy of it for processors without AVX2 is installed, too; the one that
# runs here is linked into opencode-ai.
$(CLIENTS_DIR)/node/.installed: NPM = npm install --no-audit --no-fund && rm -rf node_modules/opencode-linux-* && touch .installed
$(CLIENTS_DIR)/node/.installed-short: NPM = npm install --no-audit --no-fund --omit=dev && rm -f .installed
$(CLIENTS_DIR)/node/.installed $(CLIENTS_DIR)/node/.installed-short: tests/clients/node/package-lock.json
	@echo "==> installing the clients of $<"
	@mkdir -p $(@D)
	@cp tests/clients/node/package.json $< $(@D)
	@if command -v npm > /dev/null; then cd $(@D) && $(NPM) && touch .installed-short; \
	else echo "npm is not installed: the tests of clients for Node will be skipped"; fi

lock-clients: $(UV)  ## pin the newest release of every client
	for each in sdks agents frameworks aider; do $(LOCK_CLIENTS) tests/clients/requirements-$$each.in -o tests/clients/requirements-$$each.txt; done
	$(LOCK_CLIENTS) -c requirements/light.txt tests/page/requirements.in -o tests/page/requirements.txt
	cd tests/clients/node && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

clean:  ## remove the environments and caches
	rm -rf $(FULL) $(LIGHT) $(SITE) $(TOOLS) .clients .agents .images .templates .releases build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
