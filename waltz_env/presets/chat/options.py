"""What the preset ``chat`` is told: the models, how they are trained and act, the prompts, the warm start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from waltz_env.agents.models import Quantize, check_quantization
from waltz_env.checks import check_choice, check_integer, check_number, check_settings
from waltz_env.errors import UsageError
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

Dtype = Literal["auto", "float32", "bfloat16"]
SystemPrompts = Literal["full", "short"]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """A pair of chat models and its prompts.

    Attributes:
        model: chat model of both roles: the folder or hub name of a causal LM, or smollm2.
        feedback_model: another model for the feedback agent; by default both roles share one base.
        all_weights: train all weights of each model, in float32, instead of LoRA adapters. Give it about a tenth of
            the learning rate.
        adapter_rank: rank of the adapters, which are on all linear layers.
        dtype: dtype of frozen base weights; auto is bfloat16 where the device computes in it natively.
        quantize: load frozen base weights in 8 or 4 bits, which needs bitsandbytes.
        gradient_checkpointing: keep less for the backward pass and compute it again: less memory, a third more time.
        max_new_tokens: token limit of a response.
        feedback_tokens: token limit of a critique; by default that of a response.
        context: token limit of a prompt and its completion; by default that of the model.
        temperature: sampling temperature.
        batch_size: number of completions sampled at a time.
        system_prompts: full instructions, or one line for small models that learn their task in a warm start.
        prompts: prompts to train on, as for evaluate. SET:COUNT takes so many of them, SET:20% such a share.
        test: held-out prompts, as for evaluate. No text of theirs is trained on.
        warm_start: number of supervised steps before training, which teach the feedback format and when to refuse.
        warm_start_share: share of the training topics that those steps use. The rest is new to reinforcement learning.

    Raises:
        UsageError: a setting is out of range.
    """

    model: str = ""
    feedback_model: str | None = None
    all_weights: bool = False
    adapter_rank: int = 16
    dtype: Dtype = "auto"
    quantize: Quantize = "none"
    gradient_checkpointing: bool = False
    max_new_tokens: int = 512
    feedback_tokens: int | None = None
    context: int | None = None
    temperature: float = 1.0
    batch_size: int = 32
    system_prompts: SystemPrompts = "full"
    prompts: tuple[str, ...] = ("builtin:train",)
    test: tuple[str, ...] = ("builtin:test",)
    warm_start: int = 0
    warm_start_share: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("adapter_rank", "max_new_tokens", "batch_size"):
            check_integer(name, getattr(self, name), at_least=1)
        for name in ("feedback_tokens", "context"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), at_least=1)
        if self.prompt_tokens is not None and self.prompt_tokens < 1:
            raise UsageError(
                f"A context of {self.context} tokens leaves no room for a prompt beside "
                f"{max(self.new_tokens.values())} new ones."
            )
        check_integer("warm_start", self.warm_start, at_least=0)
        check_number("warm_start_share", self.warm_start_share, above=0, high=1)
        check_number("temperature", self.temperature, above=0)
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("quantization", self.quantize, get_args(Quantize))
        check_choice("choice of system prompts", self.system_prompts, get_args(SystemPrompts))
        for name in ("model", "feedback_model"):
            source = getattr(self, name)
            if source and Path(source).is_dir():  # the run must find it from any folder
                object.__setattr__(self, name, str(Path(source).resolve()))

    def check(self) -> None:
        """Check what can be told before anything is loaded.

        Raises:
            UsageError: no model is named, two settings do not go together, or bitsandbytes is missing.
        """
        if not self.model:
            raise UsageError("Name the model to train: --model FOLDER or --model OWNER/NAME.")
        if self.all_weights and self.quantize != "none":
            raise UsageError("Quantized weights cannot be trained. Leave out --quantize, or train adapters.")
        if self.all_weights and self.dtype == "bfloat16":
            raise UsageError(
                "Weights that are trained must be float32, or small updates are rounded away. Leave out --dtype, and "
                "set ACCELERATE_MIXED_PRECISION=bf16 to compute in bfloat16."
            )
        check_quantization(self.quantize)

    def check_service(self) -> None:
        """Check what can be told before a service that trains the models is asked for them.

        Raises:
            UsageError: a setting is about models in this process, or no service can follow it.
        """
        left_out = {
            "--all-weights": self.all_weights,
            "--quantize": self.quantize != "none",
            "--warm-start": self.warm_start > 0,
            "--gradient-checkpointing": self.gradient_checkpointing,
            "--dtype": self.dtype != "auto",
            "--temperature": self.temperature != 1.0,
        }
        given = [flag for flag, is_given in left_out.items() if is_given]
        if given:
            raise UsageError(
                f"A service trains LoRA adapters on models of its own, at temperature 1: leave out {', '.join(given)}."
            )

    @property
    def models(self) -> dict[AgentID, str]:
        """The model of each role."""
        return {CONVERSATION: self.model, FEEDBACK: self.feedback_model or self.model}

    @property
    def new_tokens(self) -> dict[AgentID, int]:
        """The token limit of one action of each role."""
        return {CONVERSATION: self.max_new_tokens, FEEDBACK: self.feedback_tokens or self.max_new_tokens}

    @property
    def prompt_tokens(self) -> int | None:
        """The token limit of a prompt; None is what the model's context leaves."""
        return None if self.context is None else self.context - max(self.new_tokens.values())
