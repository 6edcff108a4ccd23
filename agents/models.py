"""Models and tokenizers from the Hugging Face hub or a folder, and the dtype to sample in."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.errors import UsageError


def load_model(
    source: str | Path, *, dtype: torch.dtype = torch.float32, device_map: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM in evaluation mode and its tokenizer, which pads on the left.

    Args:
        source: name of a model on the hub, or a folder that ``save_pretrained`` wrote.
        dtype: dtype of the weights.
        device_map: how accelerate spreads the layers over GPUs, such as ``"balanced"``; None leaves them on the CPU.

    Raises:
        UsageError: no causal LM can be loaded from ``source``.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map=device_map)
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
    except (OSError, ValueError) as error:
        raise UsageError(f"No causal LM could be loaded from {str(source)!r}: {error}") from error
    return model.eval(), tokenizer


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
