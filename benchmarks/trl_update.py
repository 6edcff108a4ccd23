"""TRL 1.16's GRPOTrainer and RLOOTrainer as a side of `update_speed.py`: their own loop, one step per call."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
GENERATIONS = 4


def updates(
    algorithm: str,
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    rows: Sequence[tuple[list[int], list[int]]],
    *,
    microbatch: int,
    autocast: bool,
    patched: bool,
) -> Callable[[], None]:
    """A function that makes the trainer, waiting in a thread, do its next step.

    Args:
        algorithm: grpo or rloo.
        base: the model and its tokenizer.
        rows: token ids of every row: prompt and completion.
        microbatch: rows per forward pass.
        autocast: whether to use bfloat16 autocast.
        patched: whether to score only the completion's positions, as TRL does where Triton is available.
    """
    model, tokenizer = base
    trainer_class, config_class = TRAINERS[algorithm]
    settings: dict[str, Any] = {
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": len(rows) // microbatch,
        "num_generations": GENERATIONS,
        "max_completion_length": max(len(completion) for _, completion in rows),
        "beta": 0.01,
        "learning_rate": 5e-7,
        "adam_beta2": 0.95,
        "bf16": autocast,
        "use_cpu": True,
        "gradient_checkpointing": False,  # it saves memory and costs time, on every side
        "max_steps": 1000,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    trainer: Any = trainer_class(
        model=model,
        reward_funcs=lambda completions, **_: [float(i % 2) for i, _ in enumerate(completions)],
        args=config_class(tempfile.mkdtemp(prefix="trl-"), **settings),
        train_dataset=Dataset.from_list([{"prompt": "x"}] * 100),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    prompts, completions = map(list, zip(*rows, strict=True))
    texts = ["x"] * len(rows)
    sampled: dict[str, Any] = {
        "grpo": (prompts, completions, None, texts, None, {}, None, None),
        "rloo": (prompts, completions, texts),
    }
    trainer._generate = lambda _: sampled[algorithm]
    turn = _Turn()
    trainer.add_callback(turn)

    def train() -> None:
        try:
            trainer.train()
        finally:
            turn.over = True
            turn.ends.release()

    trained = threading.Thread(target=train, daemon=True)

    def update() -> None:
        trl.trainer.utils._use_triton = lambda _: patched
        if trained.ident is None:
            trained.start()
        turn.begins.release()
        turn.ends.acquire()
        if turn.over:
            sys.exit("TRL's trainer came to its end: what it said stands above.")

    return update


class _Turn(TrainerCallback):
    """Holds the trainer back before each step and reports when the step is done."""

    def __init__(self) -> None:
        self.begins = threading.Semaphore(0)
        self.ends = threading.Semaphore(0)
        self.over = False

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begins.acquire()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.release()
