# The two commands are `make demo` and `make test`; both create the environment themselves.
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-loop test test-all coverage lint types ui serve docs docs-serve docs-pages benchmarks benchmarks-page load-test lock clean

BIN := .venv/bin
READY := .venv/.ready
UV_VERSION := 0.13.9
# One more than the two cores that the suite is made for: tests wait for the processes that they start.
WORKERS ?= 3

# A Python that can make an environment; the one that the tests are run with comes first.
SUITABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c '$(SUITABLE)' 2>/dev/null && echo $$python && break; done)

# Python itself is never downloaded: what is on the machine is used.
export UV_PYTHON_DOWNLOADS := never

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-24s%s\n", $$1, $$2}'

setup: $(READY) ## Create the environment in .venv, exactly as locked
	@:

$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null || { \
		echo "error: no Python 3.11 or newer with venv and ensurepip$(PYTHON:%= at %);" \
			"install one (Debian: apt-get install python3-venv) or name one: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(BIN)/python -c '$(SUITABLE)' 2>/dev/null || { \
		echo "Creating .venv with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "Installing what requirements.lock names (about 7 GB the first time: some minutes)"
	@index="$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true)}"; \
	if [ -n "$$index" ] && [ -z "$$UV_DEFAULT_INDEX$$UV_INDEX_URL" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	echo '--editable .' | $(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock - && \
	echo "Compiling 46,000 Python files (half a minute to two minutes)" && \
	echo '--editable .' | $(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock -
	@touch $@

demo: setup ## Materialize every asset, from a batch of generated images to a promoted model
	$(BIN)/captcha-assets batch add starter synthetic:3000:1
	$(BIN)/captcha-assets update --config configs/demo.yaml
	@echo
	@$(BIN)/captcha-assets model show champion
	@echo
	@echo "Open the web UI with:                         make ui"
	@echo "See the reports that are named above:         make ui, or $(BIN)/captcha-assets reports"
	@echo "Serve the model, with a page to try it:       make serve"
	@echo "Switch the automation on (inbox, retraining): $(BIN)/captcha-assets automation on"
	@echo
	@echo "This model is narrow: a quarter of the channels of resnet18, 30 epochs. The next captcha-assets update, or the"
	@echo "automation once it is on, trains with the production settings: all channels, 12 epochs. That takes about twice"
	@echo "the CPU time on these images, and some 4 to 8 minutes on 2 cores from 10,000 images on. The update trains the"
	@echo "narrow one as long as it is given --config configs/demo.yaml."

test: setup ## Run the test suite, all but the slow tests
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-all: setup ## Run the whole test suite, as CI does
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

coverage: setup ## Run the whole test suite, and show which lines no test runs
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup --cov

lint: setup ## Check style: Python, YAML, Dockerfiles, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint --config .hadolint.yaml dockerfiles/*.Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

types: setup ## Check types
	$(BIN)/mypy

ui: setup ## Start Dagster's web UI on port 3000, with its reports on 3001
	$(BIN)/captcha-assets ui

serve: setup ## Serve the champion over HTTP on port 8000
	$(BIN)/captcha-assets serve

docs: setup ## Build the documentation as a site, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean
	@echo "The site is in site/, for a web server: make docs-serve shows it on http://localhost:8001"

docs-serve: setup ## Show the documentation on port 8001, and build it again after each change
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr localhost:8001

docs-pages: setup ## Write the parts of docs/ that are made from the code
	$(BIN)/python -m docs_pages

benchmarks: setup ## Run the benchmarks that do not take long, and write docs/benchmarks.md of the results
	$(BIN)/python -m benchmarks

benchmarks-page: setup ## Write docs/benchmarks.md of the results in benchmarks/results
	$(BIN)/python -m benchmarks.page

load-test: setup ## Measure the service under 10, 64 and 256 users of locust: a table and a plot
	$(BIN)/python -m benchmarks.serving.load_test

demo-loop: setup ## Run the loop in its own home: served images drift, are corrected, and a better model serves
	$(BIN)/python -m benchmarks.loop

lock: setup ## Resolve pyproject.toml into requirements.lock again (LOCK=--upgrade takes newer versions)
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --quiet $(LOCK) --output-file requirements.lock

clean: ## Remove the environment and the tools' caches; data and artifacts stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
