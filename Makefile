# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Passed to every pip install, for example an index of one's own: PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
MODEL ?=
PROMPTS ?=
IMAGE ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint types compile docs demo-model wheel locks clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "} {printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.demo: locks/demo.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r locks/demo.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: locks/test.txt $(VENV)/.demo
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r locks/test.txt
	@touch $@

demo: $(VENV)/.demo ## Run the whole pipeline on sample images, no cluster needed (MODEL=…, PROMPTS="a cat,a cup")
	@$(BIN)/clipseg-kfp demo --model "$(MODEL)" --prompts "$(PROMPTS)"

test: $(VENV)/.test ## Run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.test ## Check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test ## Check types
	$(BIN)/mypy

compile: $(VENV)/.demo ## Write batch-segmentation.yaml for the Kubeflow UI (IMAGE=registry/name@sha256:…)
	@$(BIN)/clipseg-kfp compile $(if $(IMAGE),--image "$(IMAGE)")

docs: $(VENV)/.demo ## Rewrite component READMEs and committed pipeline packages
	$(BIN)/python -m clipseg_kfp.catalog

demo-model: $(VENV)/.demo ## Train the demo model anew (over an hour on two cores)
	$(BIN)/python -m clipseg_kfp.demo.train --out examples/demo-model

wheel: $(VENV)/.test ## Build the wheel into dist/
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .

locks: $(VENV)/.test ## Resolve the locks anew
	sh locks/resolve.sh $(BIN)

clean: ## Remove what was built or run (the environment stays)
	rm -rf .demo dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache
