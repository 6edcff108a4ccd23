"""The weights of an agent: what a learner trains, what an agent samples from, and the reference that both started from.

``agents.layouts`` makes policies: adapters on a shared base, or whole models. Either can be split over several
processes (``LanguageModelPolicy.shard``).
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents import lora
from waltz_env.agents.output_head import head_logits, why_inseparable
from waltz_env.agents.plain_model import PlainModel, free_memory
from waltz_env.agents.recomputation import blocks_of, recomputed
from waltz_env.agents.sampling import cache_argument
from waltz_env.agents.sharded_model import another, is_sharded, shard_model
from waltz_env.agents.weights import copy_into, merger
from waltz_env.errors import UsageError
from waltz_env.files import usual_permissions
from waltz_env.lock_step import in_step
from waltz_env.sharding import check_whole, is_shard, whole

logger = logging.getLogger(__name__)

FORWARD_ARGUMENTS = ("attention_mask", "position_ids", "logits_to_keep")


class LanguageModelPolicy:
    """Trainable weights of a Hugging Face causal LM, with their frozen reference.

    ``lora_policies`` and ``full_policy`` make these. The model stays in evaluation mode, with dropout off, even while
    it is trained: a token then has the same probability when it is sampled and when it is learned from.

    Args:
        model: the causal LM. If ``adapter`` is given, the model already holds LoRA layers.
        tokenizer: the model's tokenizer.
        adapter: name of the trained adapter; None trains the whole model.
        reference: the frozen reference: another model, the name of a frozen adapter, or None for the model without
            adapters.
        temperature: temperature of the distribution that is sampled and trained.
        gradient_checkpointing: whether the forward pass keeps only the inputs of each block of the model, and the
            backward pass computes the rest again: much less memory for about a third more time.

    Attributes:
        version: number of updates so far; the learner increments it.
        frozen: whether ``freeze`` has made the weights constants.

    Raises:
        UsageError: the temperature is not above 0, the model is wrapped, its forward lacks an argument that sampling
            needs, or it does not support gradient checkpointing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        adapter: str | None,
        reference: PreTrainedModel | str | None,
        temperature: float,
        gradient_checkpointing: bool = False,
    ) -> None:
        if not temperature > 0:
            raise UsageError(f"A policy's temperature must be above 0; got {temperature}.")
        check_unwrapped(model)
        needed = (*FORWARD_ARGUMENTS, cache_argument(model))
        missing = [name for name in needed if name not in inspect.signature(model.forward).parameters]
        if missing:
            raise UsageError(
                f"{type(model).__name__}.forward takes no {', '.join(missing)}. Use a decoder-only model with "
                "attention caches, such as those of the Llama, Qwen, Gemma, Mistral or GPT families."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.version = 0
        self.frozen = False
        self._adapter = adapter
        self._reference = self._first_reference = reference
        self._layers = lora.lora_layers(model)
        self._blocks = blocks_of(model) if gradient_checkpointing else []
        self._bf16 = False
        self._plain: PlainModel | None = None
        self._kept: tuple[torch.dtype | None, bool] | None = None  # arguments of the sampling model that is kept

    def shard(self, *, bf16: bool = False) -> None:
        """Split the weights of the model and its reference over all processes; each of them calls this.

        Models that are split already, with another policy on them, stay as they are. Each process then holds a part of
        every weight, and all must compute together: see ``agents.sharded_model``.

        Args:
            bf16: whether to compute in bfloat16, whatever the dtype of the weights.

        Raises:
            UsageError: this process is the only one, or the base is quantized.
        """
        if self.quantized:
            raise UsageError("A quantized base cannot be split over processes: every process holds a copy of it.")
        self._bf16 = bf16
        for model in self.models:
            if not is_sharded(model):
                shard_model(model, bf16=bf16)

    @property
    def sharded(self) -> bool:
        """Whether the weights are split over processes."""
        return is_sharded(self.model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def rank(self) -> int | None:
        """Highest rank of the trained adapter over its layers; None if the whole model is trained."""
        if self._adapter is None:
            return None
        config = self.model.peft_config[self._adapter]
        return max([config.r, *config.rank_pattern.values()])

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the forward pass keeps only the inputs of each block."""
        return bool(self._blocks)

    @property
    def quantized(self) -> bool:
        """Whether the adapter is on a base that bitsandbytes has quantized."""
        return any(map(lora.is_quantized, self._layers))

    @property
    def models(self) -> list[PreTrainedModel]:
        """The models in memory: the one that acts and, if it is another one, the reference."""
        return [self.model, *([self._reference] if isinstance(self._reference, PreTrainedModel) else [])]

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in a fixed order.

        Raises:
            UsageError: the policy is frozen.
        """
        self._check_not_frozen()
        return list(self._trainable().values())

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> Tensor:
        """Raw logits of the last ``keep`` positions, shape (B, keep, V), in the dtype that the model computes in.

        Args:
            input_ids: (B, L) int64, padded on either side.
            attention_mask: (B, L) int64, 0 on padding.
            position_ids: (B, L) int64.
            keep: number of positions, counted from the right, for which logits are computed.
            reference: whether the frozen reference computes them instead, without gradient.
        """
        with self._forward_pass(reference=reference) as (model, _):
            output = model(
                input_ids=input_ids,
                attention_mask=_needed(attention_mask),
                position_ids=position_ids,
                logits_to_keep=keep,
                use_cache=False,
            )
        return output.logits

    @property
    def vocabulary_size(self) -> int:
        """V, the number of logits per position."""
        return int(self.model.config.get_text_config().vocab_size)

    def hidden_states(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """Last hidden states at the last ``keep`` positions, (B, keep, D), and the output head, (b, k, D) to (b, k, V).

        The head's logits are those of ``logits``. Whoever applies it to a few positions at a time never holds all of
        them. None if this model's head cannot be applied by itself, which the log explains, or if its weights are
        split over processes. The arguments are those of ``logits``.

        Raises:
            UsageError: something else than ``shard`` has sharded the model.
        """
        # What is computed without the model's own forward pass would not bring the shards together. A walk through the
        # model takes as long as a forward pass of the laboratory's, so there is only one.
        parameters = list(self.model.parameters())
        check_whole(parameters, task="The model without its output head", or_shards=True)
        if any(map(is_shard, parameters)) or self._inseparable:
            return None
        with self._forward_pass(reference=reference) as (model, prepare):
            trunk = model.base_model(
                input_ids=input_ids, attention_mask=_needed(attention_mask), position_ids=position_ids, use_cache=False
            )

        def head(hidden: Tensor) -> Tensor:
            prepare()  # in the backward pass, another adapter may be on
            return head_logits(model, hidden, output=type(trunk)).to(self.device)

        return trunk.last_hidden_state[:, -keep:].to(self.device), head

    @property
    def feature_size(self) -> int:
        """D, the width of the reference's hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @torch.no_grad()
    def features(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int) -> Tensor:
        """Hidden states of the reference's last layer at the last ``keep`` positions, (B, keep, D), without gradient.

        The arguments are those of ``logits``.

        Raises:
            UsageError: something else than ``shard`` has sharded the reference.
        """
        outputs = []
        with self._forward_pass(reference=True) as (model, _):
            check_whole(model.parameters(), task="The model without its output head", or_shards=True)
            # The whole model is called, since its trunk by itself would not bring the shards of a sharded one together.
            hook = model.base_model.register_forward_hook(lambda trunk, inputs, output: outputs.append(output))
            try:
                model(
                    input_ids=input_ids,
                    attention_mask=_needed(attention_mask),
                    position_ids=position_ids,
                    logits_to_keep=1,
                    use_cache=False,
                )
            finally:
                hook.remove()
        features: Tensor = outputs[0].last_hidden_state[:, -keep:]
        return features

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights by name, as references and not copies. An adapter's weights have PEFT's names."""
        return {name: parameter.detach() for name, parameter in self._trainable().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state returned by ``state_dict``.

        Raises:
            CheckpointError: a name or a shape differs from this policy's.
            UsageError: the model is sharded, or the policy is frozen.
        """
        self._check_not_frozen()
        copy_into(self._trainable(), state)

    def reset_reference(self, state: Mapping[str, Tensor] | None) -> None:
        """Takes other weights as the reference.

        Args:
            state: weights by name, as ``state_dict`` returns them; they are copied. None takes the reference that the
                policy was made with.

        Raises:
            CheckpointError: a name or a shape differs from this policy's.
        """
        if state is None:
            self._reference = self._first_reference
        elif self._adapter is None:
            # Other policies may share the first one. FSDP has no copies of a sharded model.
            reference = another(self.model, bf16=self._bf16) if self.sharded else copy.deepcopy(self.model)
            reference.eval().requires_grad_(False)
            copy_into(dict(reference.named_parameters()), state)
            self._reference = reference
        else:
            name = f"{self._adapter}_at_reset"
            if name not in self.model.peft_config:
                lora.add(self.model, name, copy.deepcopy(self.model.peft_config[self._adapter]))
            copy_into(lora.adapter_parameters(self.model, name), state)
            self._reference = name

    @contextmanager
    def sampling_model(self, dtype: torch.dtype | None = None, *, adapter: bool = True) -> Iterator[PreTrainedModel]:
        """The policy as a plain model to generate with: the adapter is merged and the weights are in ``dtype``.

        LoRA layers that are not merged make generation up to twice as slow. The merged weights are made anew each time
        and live inside the ``with`` block only. That costs about as much as generating a few tokens, can never be
        stale, and keeps no second copy in memory during training. ``freeze`` keeps them.

        Nothing can be merged into a quantized base or a sharded one: there the adapter is on, and ``dtype`` has no
        effect. Inside the block, the processes of a sharded one may make different numbers of passes (``lock_step``).

        Args:
            dtype: dtype of the merged weights; None keeps the model's own. Rounding to it also changes the
                log-probabilities that are sampled with. ``waltz_env.agents.fast_dtype`` knows where bfloat16 is faster.
            adapter: False gives the base without the adapter.

        Raises:
            UsageError: something else than ``shard`` has sharded the model.
        """
        plain, name = self._plain_model(), self._adapter if adapter else None
        if plain is None:
            lora.switch(self._layers, name)
            with in_step():
                yield self.model
        elif self._kept == (dtype, adapter):
            yield plain.model
        else:
            with plain.filled(merger(self._layers, name), dtype) as model:
                yield model

    def freeze(self, dtype: torch.dtype | None = None) -> None:
        """Makes the weights constants, and keeps what ``sampling_model`` gives in this dtype: for a pair in production.

        That takes at most as much memory as the weights of the model in this dtype. If it were more than half of what
        is free, nothing is kept, and merging goes on as before. A quantized or a sharded model keeps nothing.

        Args:
            dtype: the dtype that ``sampling_model`` will be asked for.

        Raises:
            UsageError: something else than ``shard`` has sharded the model.
        """
        for parameter in self._trainable().values():
            parameter.requires_grad_(False)
        self.frozen = True
        plain = self._plain_model()
        if plain is None:
            return
        needed, free = plain.size(dtype), free_memory(self.device)
        if needed > free / 2:
            logger.warning(
                "Merged weights are not kept: they may take %.1f GiB, and %.1f GiB are free. Every turn merges anew.",
                needed / 2**30,
                free / 2**30,
            )
            return
        plain.fill(merger(self._layers, self._adapter), dtype)
        self._kept = (dtype, True)

    def _plain_model(self) -> PlainModel | None:
        """The modules to sample from, made anew if the model's own have changed; None if nothing can be merged."""
        if self._plain is None or not self._plain.fits:
            self._plain = None if self.quantized or self.sharded else PlainModel(self.model)
            self._kept = None
        return self._plain

    def _check_not_frozen(self) -> None:
        if self.frozen:
            raise UsageError("This policy is frozen: its weights are constants. Train or load another one.")

    def plain_weights(self, dtype: torch.dtype | None = None, *, adapter: bool = True) -> Iterator[tuple[str, Tensor]]:
        """The weights of a plain model by name, one at a time: the adapter is merged, and they are in ``dtype``.

        The processes of a sharded policy all iterate at the same time, and hold one whole weight at a time. A weight
        that has several names comes once.

        Args:
            dtype: dtype of the weights; None keeps the model's own.
            adapter: False gives the base without the adapter.

        Raises:
            UsageError: the base is quantized, or something else than ``shard`` has sharded the model.
        """
        if self.quantized:
            raise UsageError(
                "An adapter cannot be merged into a quantized base. Save the adapter, and merge it into the base as it "
                "was before it was quantized."
            )
        check_whole(self.model.parameters(), task="Reading a plain model", or_shards=True)
        merged = merger(self._layers, self._adapter if adapter else None)
        seen: set[int] = set()
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if ".lora_" in name or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            with torch.no_grad():
                weight = merged(tensor)
                if dtype is not None and isinstance(tensor, nn.Parameter):
                    weight = weight.to(dtype)
                weight = whole(weight)
            yield name.replace(".base_layer.", "."), weight

    def save(self, folder: str | Path, *, tokenizer: bool = True, write: bool = True) -> None:
        """Writes the trained weights: an adapter in PEFT's format, a whole model as ``save_pretrained`` writes it.

        PEFT and transformers load either of them from any folder: an adapter's configuration names its base by its name
        on the hub or by an absolute path. After a move of that base, ``waltz export`` writes an adapter that finds it.

        Args:
            folder: folder to write to.
            tokenizer: False leaves the tokenizer and its chat template out of an adapter's folder.
            write: whether this process writes. All processes of a sharded policy call this, and gather its weights.

        Raises:
            UsageError: something else than ``shard`` has sharded the model.
        """
        if self._adapter is None:
            self.save_merged(folder, write=write)
            return
        check_whole(self._trainable().values(), task="Saving an adapter", or_shards=True)
        state = {name: whole(tensor).cpu() for name, tensor in self.state_dict().items()}
        if write:
            lora.save_adapter(Path(folder), self.model.peft_config[self._adapter], state)
            if tokenizer:
                self.tokenizer.save_pretrained(folder)

    def save_merged(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, adapter: bool = True, write: bool = True
    ) -> None:
        """Writes a plain model and its tokenizer, which load anywhere: the adapter is merged, the weights in ``dtype``.

        Args:
            folder: folder to write to.
            dtype: dtype of the weights; None keeps the model's own.
            adapter: False writes the base without the adapter.
            write: as in ``save``.

        Raises:
            UsageError: the base is quantized, or something else than ``shard`` has sharded the model.
        """
        if not (write or self.sharded):
            return
        weights = {}
        for name, weight in self.plain_weights(dtype, adapter=adapter):
            if write:
                weights[name] = weight.cpu() if self.sharded else weight
        if write:
            self.model.save_pretrained(folder, state_dict=weights)
            if dtype is not None:  # the configuration names the dtype of the model
                config = copy.deepcopy(self.model.config)
                config.dtype = dtype
                config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            usual_permissions(Path(folder))

    @contextmanager
    def _forward_pass(self, *, reference: bool) -> Iterator[tuple[PreTrainedModel, Callable[[], object]]]:
        """The model that computes, and what turns its adapter on again later, for the backward pass."""
        model, adapter = self._reference_model() if reference else (self.model, self._adapter)
        prepare = partial(lora.switch, self._layers, adapter)
        prepare()
        learned = torch.is_grad_enabled() and not reference
        with torch.set_grad_enabled(learned), recomputed(self._blocks if learned else [], prepare):
            yield model, prepare

    @cached_property
    def _inseparable(self) -> bool:
        """Whether the output head cannot be applied by itself."""
        reason = why_inseparable(self.model)
        if reason is not None:
            logger.warning(
                "The output head of %s cannot be applied to a few positions at a time: %s. All logits of a micro-batch "
                "are in memory at once; lower tokens_per_microbatch if that is too much.",
                type(self.model).__name__,
                reason,
            )
        return reason is not None

    def _reference_model(self) -> tuple[PreTrainedModel, str | None]:
        """The model that computes the reference, and the adapter that is on while it does."""
        if isinstance(self._reference, PreTrainedModel):
            return self._reference, None
        return self.model, self._reference

    def _trainable(self) -> dict[str, nn.Parameter]:
        if self._adapter is None:
            return dict(self.model.named_parameters())
        return lora.adapter_parameters(self.model, self._adapter)


def _needed(attention_mask: Tensor) -> Tensor:
    """The mask that a causal model needs: ones where all padding is on the right, as no real token sees that.

    Without a mask, attention has faster kernels.
    """
    padded_right = bool((attention_mask.diff(dim=1) <= 0).all())
    return torch.ones_like(attention_mask) if padded_right else attention_mask


def check_unwrapped(model: nn.Module) -> None:
    """Check that the model is one of transformers', and not something around it.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"A policy needs a transformers model (PreTrainedModel); got a {type(model).__name__}. If that wraps the "
            "model, give the model itself: a learner adds up the gradients of all processes without a wrapper."
        )
