"""Models and tokenizers from the Hugging Face hub or a folder, and the dtype to sample in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from waltz_env.errors import UsageError


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device_map: str | None = None,
    quantize: Literal["none", "8bit", "4bit"] = "none",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in evaluation mode and its tokenizer, which pads on the left.

    Args:
        source: name of a model on the hub, or a folder that ``save_pretrained`` wrote.
        dtype: dtype of the weights.
        device_map: how accelerate spreads the layers over GPUs, such as ``"balanced"``; None leaves them on the CPU.
        quantize: how bitsandbytes stores the weights of linear layers; ``dtype`` is then that of the other weights and
            of the computation.

    Raises:
        UsageError: no causal LM can be loaded from ``source``.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, device_map=device_map, quantization_config=_quantization(quantize, dtype)
        )
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
    except (OSError, ValueError) as error:
        raise UsageError(f"No causal LM could be loaded from {str(source)!r}: {error}") from error
    return model.eval(), tokenizer


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
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
    except (OSError, ValueError) as error:
        raise UsageError(f"No causal LM could be loaded from {str(source)!r}: {error}") from error
    return model.eval(), tokenizer


def _quantization(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
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
