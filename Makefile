# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Passed to every pip install, for example an index with a CPU build of torch: PIP_ARGS="--extra-index-url URL"
PIP_ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q $(PIP_ARGS)
# Through the environment, so that quotes in a value mean nothing to the shell.
export MODEL ?=
export PROMPTS ?=
export IMAGE ?=
export QUICK ?=
# Of the images' builds; images/build.sh tells what each is for.
IMAGES ?= cpu gpu notebook
export REGISTRY ?=
export BASE ?=
export BUILD_BASE ?=
export PIP_INDEX_URL ?=
export PIP_EXTRA_INDEX_URL ?=
export BUILD_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults test-images test-gpu bench lint types compile docs demo-model picture report-picture gallery notebook \
	wheel locks wheels images audit sbom clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*?## "} {printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.made:
	@[ ! -e $(VENV) ] || [ -e $(VENV)/pyvenv.cfg ] || { echo "make: $(VENV) is no virtual environment" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "make: $(PYTHON) with venv is needed (Debian: apt install python3.11-venv), or name one: PYTHON=…" >&2; \
		exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.made locks/demo.txt pyproject.toml
	@echo "Installing into $(VENV); the first time takes some minutes."
	@$(PIP) -r locks/demo.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.demo locks/test.txt
	@echo "Installing what the tests need."
	@$(PIP) -r locks/test.txt
	@touch $@

demo: $(VENV)/.demo ## Run the whole pipeline on sample images, no cluster needed (MODEL=…, PROMPTS="a cat,a cup")
	@$(BIN)/clipseg-kfp demo --model "$$MODEL" --prompts "$$PROMPTS"

test: $(VENV)/.test ## Run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4

test-faults: $(VENV)/.test ## Run the long matrices of kills, faults and hostile input; writes faults.json
	$(BIN)/python -m pytest tests/faults -m faults -n 2 --timeout 540

test-images: $(VENV)/.test ## Build the images with Docker and run a whole pipeline on them (root; some minutes)
	$(BIN)/python -m pytest tests/images -m images

test-gpu: $(VENV)/.test ## Compare the engine on a CUDA device with the CPU (needs a GPU and a CUDA build of torch)
	$(BIN)/python -m pytest tests/gpu -m gpu

bench: $(VENV)/.test ## Measure the engine side by side (QUICK=1 ends within five minutes)
	@$(BIN)/python tests/bench/bench.py

lint: $(VENV)/.test ## Check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.test ## Check types
	$(BIN)/mypy

compile: $(VENV)/.demo ## Write the pipelines' packages for the Kubeflow UI (IMAGE=registry/name@sha256:…)
	@for name in batch-segmentation one-shot-segmentation prompt-evaluation; do \
		$(BIN)/clipseg-kfp compile $$name $(if $(IMAGE),--image "$$IMAGE") || exit 1; done

docs: $(VENV)/.demo ## Rewrite component READMEs and committed pipeline packages
	$(BIN)/python -m tools.catalog

demo-model: $(VENV)/.demo ## Train the demo model anew (two hours on two cores)
	$(BIN)/python -m tools.train_demo_model --out examples/demo-model

picture: $(VENV)/.demo ## Redraw the README's picture from the last demo
	$(BIN)/python -m tools.readme_picture

report-picture: $(VENV)/.demo ## Redraw docs/report.png from the last demo's report (needs Chromium)
	$(BIN)/python -m tools.report_picture

gallery: $(VENV)/.demo ## Redraw docs/gallery.md and its pictures, and measure anew
	@$(BIN)/python -m tools.gallery

notebook: $(VENV)/.test ## Run the tutorial notebook anew and keep its outputs
	@$(BIN)/python -m tools.notebook

wheel: $(VENV)/.test ## Build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation -w dist .

locks: $(VENV)/.test ## Resolve the locks anew (UPGRADE=1: newest versions; UPGRADE="-P pillow": of one package)
	sh locks/resolve.sh $(BIN)

audit: $(VENV)/.test ## Ask the advisory services about every package of the locks
	@$(BIN)/python .ci/audit.py

sbom: $(VENV)/.test ## Write the bills of materials (CycloneDX) of the images' locks anew
	@$(BIN)/python locks/sbom.py cpu cpu-int8 gpu notebook

wheels: $(VENV)/.made ## Fetch the wheels of IMAGES into images/wheels, for builds without internet
	@for name in $(IMAGES); do $(BIN)/python -m pip --disable-pip-version-check download -q $(PIP_ARGS) --no-deps \
		--prefer-binary --require-hashes -r images/$$name/requirements.txt -d images/wheels || exit 1; done

images: ## Build the container images (IMAGES="cpu gpu", REGISTRY=…/, BASE=…, PIP_INDEX_URL=…, PIP_ARGS=--no-index)
	@PIP_ARGS="$(PIP_ARGS)" sh images/build.sh $(IMAGES)

clean: ## Remove what was built or run (the environment stays)
	rm -rf .demo dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache batch-segmentation*.yaml \
		one-shot-segmentation*.yaml prompt-evaluation*.yaml clipseg-kfp.log bench.json faults.json
