"""The weights of an agent: what a learner trains, what an agent samples from, and the reference that both started from.

There are two layouts. ``lora_policies`` keeps one base model in memory with one LoRA adapter per role; the reference is
the base alone, or a frozen copy of the adapter that training started from. ``full_policy`` trains all weights of a
model; the reference is a frozen copy of it. Roles may share a base or have models of different families.

Either layout can be split over several processes (``LanguageModelPolicy.shard``).
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from waltz_env.agents import lora
from waltz_env.agents.output_head import head_logits, why_inseparable
from waltz_env.agents.recomputation import blocks_of, recomputed
from waltz_env.agents.sampling import cache_argument
from waltz_env.agents.sharded_model import another, shard_model
from waltz_env.errors import CheckpointError, UsageError
from waltz_env.files import usual_permissions
from waltz_env.lock_step import in_step
from waltz_env.sharding import check_whole, fitted, is_shard, whole
from waltz_env.types import AGENTS, AgentID

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
        _check_unwrapped(model)
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
        self._adapter = adapter
        self._reference = self._first_reference = reference
        self._layers = lora.lora_layers(model)
        self._blocks = blocks_of(model) if gradient_checkpointing else []
        self._bf16 = False

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
        """The trainable parameters, in a fixed order."""
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
        # What is computed without the model's own forward pass would not bring the shards together.
        check_whole(self.model.parameters(), task="The model without its output head", or_shards=True)
        if self.sharded or self._inseparable:
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
            UsageError: the model is sharded.
        """
        _copy_into(self._trainable(), state)

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
            _copy_into(dict(reference.named_parameters()), state)
            self._reference = reference
        else:
            name = f"{self._adapter}_at_reset"
            if name not in self.model.peft_config:
                lora.add(self.model, name, copy.deepcopy(self.model.peft_config[self._adapter]))
            _copy_into(lora.adapter_parameters(self.model, name), state)
            self._reference = name

    @contextmanager
    def sampling_model(self, dtype: torch.dtype | None = None, *, adapter: bool = True) -> Iterator[PreTrainedModel]:
        """The policy as a plain model to generate with: the adapter is merged and the weights are in ``dtype``.

        LoRA layers that are not merged make generation up to twice as slow. The merged weights replace the base's only
        inside the ``with`` block. Afterwards the model holds its original tensors again: nothing drifts, however often
        this runs. The weights are merged anew each time. That costs about as much as generating a few tokens, can never
        be stale, and keeps no second copy in memory during training.

        Nothing can be merged into a quantized base or a sharded one: there the adapter is on, and ``dtype`` has no
        effect. Inside the block, the processes of a sharded one may make different numbers of passes (``lock_step``).

        Args:
            dtype: dtype of the merged weights; None keeps the model's own. Rounding to it also changes the
                log-probabilities that are sampled with. ``waltz_env.agents.fast_dtype`` knows where bfloat16 is faster.
            adapter: False gives the base without the adapter.

        Raises:
            UsageError: something else than ``shard`` has sharded the model.
        """
        # A sharded model computes with storage of its own, and not with what `parameter.data` is set to.
        check_whole(self.model.parameters(), task="Generating", or_shards=True)
        if self.quantized or self.sharded:
            lora.switch(self._layers, self._adapter if adapter else None)
            with in_step():
                yield self.model
            return
        base = [parameter for name, parameter in self.model.named_parameters() if ".lora_" not in name]
        originals = [parameter.data for parameter in base]
        layers = [layer for layer in self._layers if adapter and self._adapter in layer.scaling]
        adapted = {id(layer.get_base_layer().weight): layer for layer in layers}
        # Assigning to `parameter.data` swaps tensors without copying. `originals` keeps the trainer's tensors alive
        # meanwhile, and the adapters' own parameters are never touched.
        try:
            with torch.no_grad():
                for parameter, original in zip(base, originals, strict=True):
                    layer = adapted.get(id(parameter))
                    weight = original if layer is None else original + layer.get_delta_weight(self._adapter)
                    parameter.data = weight.to(dtype or original.dtype)
            lora.switch(self._layers, None)
            yield self.model
        finally:
            for parameter, original in zip(base, originals, strict=True):
                parameter.data = original

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
        layers = [layer for layer in self._layers if adapter and self._adapter in layer.scaling]
        adapted = {id(layer.get_base_layer().weight): layer for layer in layers}
        seen: set[int] = set()
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if ".lora_" in name or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            with torch.no_grad():
                weight = tensor.detach()
                if id(tensor) in adapted:
                    weight = weight + adapted[id(tensor)].get_delta_weight(self._adapter)
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
        check_whole(self.parameters(), task="Saving an adapter", or_shards=True)
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


def lora_policies(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    names: Sequence[AgentID] = AGENTS,
    adapters: Mapping[AgentID, str | Path] | None = None,
    rank: int = 16,
    alpha: int = 32,
    target_modules: str | Sequence[str] = "all-linear",
    temperature: float = 1.0,
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> dict[AgentID, LanguageModelPolicy]:
    """One policy per name, all on one frozen base (arXiv:2106.09685): W + (alpha / rank) B A, with B = 0 at the start.

    Args:
        model: the base. LoRA layers are added to it; its own weights never change.
        tokenizer: the base's tokenizer.
        names: names of the policies; each gets an adapter.
        adapters: folders of trained adapters to start from, by name. The reference of such a policy is a frozen copy of
            its adapter, and rank, alpha and targets are the folder's. The reference of any other policy is the base.
        rank: rank of the adapters that start from zero.
        alpha: scale of those adapters, times ``rank``.
        target_modules: ``"all-linear"`` (every linear layer but the output head) or names of modules, as in PEFT.
        temperature: temperature of the distribution that is sampled and trained.
        seed: seeds the random factor A.
        gradient_checkpointing: see ``LanguageModelPolicy``.

    Raises:
        UsageError: ``adapters`` has a name that ``names`` lacks, a folder holds no adapter or one that is more than
            plain LoRA, a target's weight is shared with another module, or the model is sharded or wrapped, or does not
            support gradient checkpointing.
        CheckpointError: a folder's weights do not fit the model.
    """
    _check_model(model)
    adapters = adapters or {}
    unknown = set(adapters) - set(names)
    if unknown or not names:
        raise UsageError(f"`adapters` may hold {sorted(names)} only; got {sorted(adapters)}.")
    fresh = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # as GPT-2 stores its weights
        task_type="CAUSAL_LM",
        base_model_name_or_path=lora.base_name(model),
    )
    configs: dict[str, PeftConfig] = {
        name: lora.read_config(adapters[name]) if name in adapters else copy.deepcopy(fresh) for name in names
    }
    for config in configs.values():
        config.base_model_name_or_path = fresh.base_model_name_or_path or config.base_model_name_or_path
    references = {name: f"{name}_reference" for name in adapters}
    configs |= {references[name]: copy.deepcopy(configs[name]) for name in adapters}
    states = {name: lora.read_weights(folder) for name, folder in adapters.items()}
    lora.inject(model, configs, seed=seed)
    for name, state in states.items():
        _copy_into(lora.adapter_parameters(model, name), state)
        _copy_into(lora.adapter_parameters(model, references[name]), state)
    for name in names:
        for parameter in lora.adapter_parameters(model, name).values():
            parameter.requires_grad_(True)
    return {
        name: LanguageModelPolicy(
            model,
            tokenizer,
            adapter=name,
            reference=references.get(name),
            temperature=temperature,
            gradient_checkpointing=gradient_checkpointing,
        )
        for name in names
    }


def full_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    reference: PreTrainedModel | None = None,
    temperature: float = 1.0,
    gradient_checkpointing: bool = False,
) -> LanguageModelPolicy:
    """A policy that trains all weights of ``model``.

    Args:
        model: the causal LM.
        tokenizer: the model's tokenizer.
        reference: the reference, which is frozen; several policies that start from equal weights may share one. None
            copies the model as it is now.
        temperature: temperature of the distribution that is sampled and trained.
        gradient_checkpointing: see ``LanguageModelPolicy``.

    Raises:
        UsageError: the model is sharded or wrapped, or does not support gradient checkpointing.
    """
    _check_model(model)
    reference = (copy.deepcopy(model) if reference is None else reference).eval().requires_grad_(False)
    model.requires_grad_(True)
    return LanguageModelPolicy(
        model,
        tokenizer,
        adapter=None,
        reference=reference,
        temperature=temperature,
        gradient_checkpointing=gradient_checkpointing,
    )


def _needed(attention_mask: Tensor) -> Tensor:
    """The mask that a causal model needs: ones where all padding is on the right, as no real token sees that.

    Without a mask, attention has faster kernels.
    """
    padded_right = bool((attention_mask.diff(dim=1) <= 0).all())
    return torch.ones_like(attention_mask) if padded_right else attention_mask


def _check_model(model: nn.Module) -> None:
    _check_unwrapped(model)
    check_whole(model.parameters(), task="A new policy")


def _check_unwrapped(model: nn.Module) -> None:
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"A policy needs a transformers model (PreTrainedModel); got a {type(model).__name__}. If that wraps the "
            "model, give the model itself: a learner adds up the gradients of all processes without a wrapper."
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether ``LanguageModelPolicy.shard`` has split the weights of the model over processes."""
    return any(map(is_shard, model.parameters()))


def _copy_into(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Sets the parameters to ``state``, all of them or, if a name or a shape differs, none."""
    check_whole(parameters.values(), task="Loading weights", or_shards=True)
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != given:
        wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
        raise CheckpointError(
            f"The weights do not fit the policy: {len(wrong)} of {len(expected)} differ, first {wrong[0]!r} (expected "
            f"shape {expected.get(wrong[0])}, got {given.get(wrong[0])}). Use the model, rank and targets that they "
            "were made with."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(fitted(state[name], like=parameter))
