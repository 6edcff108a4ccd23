"""Models and tokenizers from the Hugging Face hub or a folder, and the dtype to sample in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from waltz_env.errors import UsageError
from waltz_env.run_folder import RunFolder

Quantize = Literal["none", "8bit", "4bit"]

_LOADING = (OSError, ValueError, SafetensorError)  # what loading raises for files that are missing, wrong or broken


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = None,
    quantize: Quantize = "none",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in evaluation mode and its tokenizer, which pads on the left.

    Args:
        source: name of a model on the hub, or a folder that ``save_pretrained`` wrote.
        dtype: dtype of the weights.
        device_map: how accelerate spreads the layers over GPUs, such as ``"balanced"``; None leaves them on the CPU.
        quantize: how bitsandbytes stores the weights of linear layers; ``dtype`` is then that of the other weights and
            of the computation.

    Raises:
        UsageError: no causal LM can be loaded from ``source``, some of its weights are not there, or bitsandbytes is
            missing.
    """
    check_quantization(quantize)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, as asked for; its annotation has the model alone
            source,
            dtype=dtype,
            device_map=device_map,
            quantization_config=_quantization(quantize, dtype),
            output_loading_info=True,
        )
        tokenizer = _tokenizer(source)
    except _LOADING as error:
        raise _not_loaded(source, error) from error
    model: PreTrainedModel = loaded[0]
    absent = sorted(loaded[1]["missing_keys"])
    if absent:  # transformers would draw them at random
        raise UsageError(
            f"No {type(model).__name__} could be loaded from {str(source)!r}: {len(absent)} of its weights are not "
            f"there, such as {absent[0]}. Does its config.json belong to another model?"
        )
    for module in model.modules():
        # On some CPUs, bitsandbytes rearranges weights of 4 bits in the first pass without gradients, and no gradient
        # flows through them from then on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    return model.eval(), tokenizer


def check_quantization(quantize: Quantize) -> None:
    """Check that what quantizes is installed.

    Raises:
        UsageError: it is not.
    """
    if quantize != "none" and find_spec("bitsandbytes") is None:
        raise UsageError(
            "A quantized base needs bitsandbytes, which is not installed. Install it with `pip install bitsandbytes`, "
            "or leave out --quantize."
        )


def load_outline(
    source: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same as ``load_model``, but the model is on the meta device: it has shapes and no weights.

    Raises:
        UsageError: no causal LM can be loaded from ``source``.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=dtype)
        tokenizer = _tokenizer(source)
    except _LOADING as error:
        raise _not_loaded(source, error) from error
    return model.eval(), tokenizer


def _tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer, which pads on the left.

    Raises:
        UsageError: there is none; transformers would make one that knows special tokens alone.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
    if not tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():
        raise UsageError(
            f"{str(source)!r} holds no tokenizer. Put the files of the model's tokenizer, such as tokenizer.json and "
            "tokenizer_config.json, beside its weights."
        )
    return tokenizer


def _not_loaded(source: str | Path, error: Exception) -> UsageError:
    """What went wrong, and what to give instead if the folder shows it."""
    told = str(error).strip().partition("\n")[0]
    path = Path(source)
    if path.suffix == ".gguf" or any(path.glob("*.gguf")):
        told = (
            "GGUF files are weights for other programs. Give the folder or hub name of the model in the format of "
            "transformers: config.json, *.safetensors and the tokenizer's files."
        )
    elif (path / "adapter_config.json").is_file():
        told = (
            "It holds an adapter. Merge it into its base (PEFT: `merge_and_unload`) and give the folder of the result."
        )
    elif RunFolder(path).checkpoints.is_dir():
        told = "It is the folder of a run. `waltz export RUN --merged --to FOLDER` writes its models."
    return UsageError(f"No causal LM could be loaded from {str(source)!r}: {told}")


def _quantization(quantize: Quantize, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if quantize == "none":
        return None
    return BitsAndBytesConfig(
        load_in_8bit=quantize == "8bit",
        load_in_4bit=quantize == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype to pass as ``sampling_dtype``: bfloat16 if ``device`` computes in it natively, otherwise None.

    NVIDIA GPUs do from Ampere on, and CPUs with AMX or AVX512_BF16; ``benchmarks/rollout_speed.py`` measures the gain.
    Other CPUs emulate bfloat16, which is slower than float32 (docs/performance.md).
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        instructions = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        fast = device.type == "cpu" and instructions
    return torch.bfloat16 if fast else None
