"""The weights of an agent: what a learner trains, what an agent samples from, and the reference both started from.

Two layouts. ``lora_policies``: one base model in memory, one LoRA adapter a role; the reference is the base alone, or a
frozen copy of the adapter where training began from one. ``full_policy``: all weights of a model of its own; the
reference is a frozen copy. Roles may share a base, or have models of different families.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel, PeftConfig
from peft.tuners.lora import Linear, LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from waltz_env.agents.sampling import cache_argument
from waltz_env.errors import CheckpointError, UsageError
from waltz_env.types import AGENTS, AgentID

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
FORWARD_ARGUMENTS = ("attention_mask", "position_ids", "logits_to_keep")


class LanguageModelPolicy:
    """Trainable weights over a Hugging Face causal LM, with their frozen reference.

    Made by ``lora_policies`` and ``full_policy``. The model stays in evaluation mode, dropout off, also while it is
    trained: a token's probability is then the same when it is sampled and when it is learned from.

    Args:
        model: the causal LM. With ``adapter``, LoRA layers are already in it.
        tokenizer: its tokenizer.
        adapter: name of the trained adapter; None: the whole model is trained.
        reference: the frozen reference: a model of its own, the name of a frozen adapter, or None, adapters off.
        temperature: of the distribution that is sampled and trained.

    Attributes:
        version: number of updates made so far; the learner counts it up.

    Raises:
        UsageError: the temperature is not above 0, or the model's forward lacks an argument that sampling needs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        adapter: str | None,
        reference: PreTrainedModel | str | None,
        temperature: float,
    ) -> None:
        if not temperature > 0:
            raise UsageError(f"A policy's temperature must be above 0; got {temperature}.")
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
        self._reference = reference
        self._layers = [module for module in model.modules() if isinstance(module, Linear)]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def rank(self) -> int | None:
        """Of the trained adapter; None where the whole model is trained."""
        return None if self._adapter is None else self.model.peft_config[self._adapter].r

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in a fixed order."""
        return list(self._trainable().values())

    def logits(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int, *, reference: bool = False
    ) -> Tensor:
        """Raw logits of the last ``keep`` positions, shape (B, keep, V), in the dtype that the model computes in.

        Args:
            input_ids: (B, L) int64, padded on the left.
            attention_mask: (B, L) int64, 0 on padding.
            position_ids: (B, L) int64.
            keep: number of positions, counted from the right, for which logits are computed.
            reference: of the frozen reference instead, without gradient.
        """
        model, adapter = self._reference_model() if reference else (self.model, self._adapter)
        _switch(self._layers, adapter)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not reference):
            output = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                logits_to_keep=keep,
                use_cache=False,
            )
        return output.logits

    @property
    def feature_size(self) -> int:
        """D, the width of the reference's hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @torch.no_grad()
    def features(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, keep: int) -> Tensor:
        """The frozen reference's last hidden states at the last ``keep`` positions, (B, keep, D), without gradient.

        Arguments as of ``logits``.
        """
        model, adapter = self._reference_model()
        _switch(self._layers, adapter)
        output = model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return output.last_hidden_state[:, -keep:]

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable weights by name: references, not copies. An adapter's names are those of PEFT's files."""
        return {name: parameter.detach() for name, parameter in self._trainable().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``state_dict`` gave.

        Raises:
            CheckpointError: names or shapes differ from this policy's.
        """
        _copy_into(self._trainable(), state)

    @contextmanager
    def sampling_model(self, dtype: torch.dtype | None = None, *, adapter: bool = True) -> Iterator[PreTrainedModel]:
        """The policy as a plain model to generate with: the adapter merged, the weights in ``dtype``.

        Unmerged LoRA layers slow generation, up to twofold where matrix products are fast. The merged weights stand in
        for the base's only inside the ``with`` block; then the very same tensors come back, so nothing drifts however
        often this runs. They are made anew each time: that costs about as much as generating a few tokens, can never be
        stale, and leaves no second copy in memory while training.

        Args:
            dtype: None keeps the model's own; merged weights are rounded to it, and log-probabilities are those of the
                rounded weights. ``fast_dtype`` of ``waltz_env.agents`` knows where bfloat16 pays.
            adapter: False leaves it out: the base alone.
        """
        base = [parameter for name, parameter in self.model.named_parameters() if ".lora_" not in name]
        originals = [parameter.data for parameter in base]
        layers = [layer for layer in self._layers if adapter and self._adapter in layer.scaling]
        adapted = {id(layer.get_base_layer().weight): layer for layer in layers}
        try:
            with torch.no_grad():
                for parameter, original in zip(base, originals, strict=True):
                    layer = adapted.get(id(parameter))
                    weight = original if layer is None else original + layer.get_delta_weight(self._adapter)
                    parameter.data = weight.to(dtype or original.dtype)
            _switch(self._layers, None)
            yield self.model
        finally:
            for parameter, original in zip(base, originals, strict=True):
                parameter.data = original

    def save(self, folder: str | Path) -> None:
        """Writes the trained weights: an adapter in PEFT's format, a whole model in that of ``save_pretrained``."""
        if self._adapter is None:
            self.save_merged(folder)
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.copy(self.model.peft_config[self._adapter])
        config.inference_mode = True
        config.save_pretrained(folder)
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    @contextmanager
    def merged_weights(self, dtype: torch.dtype | None = None, *, adapter: bool = True) -> Iterator[dict[str, Tensor]]:
        """The weights of ``sampling_model`` under a plain model's names; like that, good only inside the block."""
        with self.sampling_model(dtype, adapter=adapter) as model:
            yield {
                name.replace(".base_layer.", "."): tensor
                for name, tensor in model.state_dict().items()
                if ".lora_" not in name
            }

    def save_merged(self, folder: str | Path, *, dtype: torch.dtype | None = None, adapter: bool = True) -> None:
        """Writes a plain model with its tokenizer that loads anywhere: the adapter merged, the weights in ``dtype``.

        Args:
            folder: where to.
            dtype: None keeps the model's own.
            adapter: False leaves it out: the base alone.
        """
        with self.merged_weights(dtype, adapter=adapter) as weights:
            self.model.save_pretrained(folder, state_dict=weights)
        self.tokenizer.save_pretrained(folder)

    def _reference_model(self) -> tuple[PreTrainedModel, str | None]:
        """The model that computes the reference, and the adapter that is on meanwhile."""
        if isinstance(self._reference, PreTrainedModel):
            return self._reference, None
        return self.model, self._reference

    def _trainable(self) -> dict[str, nn.Parameter]:
        if self._adapter is None:
            return dict(self.model.named_parameters())
        return _adapter_parameters(self.model, self._adapter)


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
) -> dict[AgentID, LanguageModelPolicy]:
    """One policy a name, all on one frozen base (arXiv:2106.09685): W + (alpha / rank) B A, with B = 0 at the start.

    Args:
        model: the base. LoRA layers are put into it; its own weights never change.
        tokenizer: its tokenizer.
        names: one adapter each.
        adapters: folders of trained adapters to start from, by name. Such a policy's reference is a frozen copy of that
            adapter, and the folder's rank, alpha and targets hold; any other policy's reference is the base.
        rank: of the adapters that start from zero.
        alpha: their scale is ``alpha / rank``.
        target_modules: ``"all-linear"`` (every linear layer but the output head) or names of modules, as PEFT has them.
        temperature: of the distribution that is sampled and trained.
        seed: of the random factor A.

    Raises:
        UsageError: an adapter is named that is not in ``names``, a folder holds anything but plain LoRA, or a target's
            weight is shared with another module.
        CheckpointError: a folder's weights do not fit the model.
    """
    adapters = adapters or {}
    strangers = set(adapters) - set(names)
    if strangers or not names:
        raise UsageError(f"`adapters` may hold {sorted(names)} only; got {sorted(adapters)}.")
    fresh = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.name_or_path or None,
    )
    configs: dict[str, PeftConfig] = {
        name: _plain_lora(adapters[name]) if name in adapters else copy.deepcopy(fresh) for name in names
    }
    references = {name: f"{name}_reference" for name in adapters}
    configs |= {references[name]: copy.deepcopy(configs[name]) for name in adapters}
    _inject(model, configs, seed)
    for name, folder in adapters.items():
        state = load_file(Path(folder) / WEIGHTS_FILE)
        _copy_into(_adapter_parameters(model, name), state)
        _copy_into(_adapter_parameters(model, references[name]), state)
    for name in names:
        for parameter in _adapter_parameters(model, name).values():
            parameter.requires_grad_(True)
    return {
        name: LanguageModelPolicy(
            model, tokenizer, adapter=name, reference=references.get(name), temperature=temperature
        )
        for name in names
    }


def full_policy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    reference: PreTrainedModel | None = None,
    temperature: float = 1.0,
) -> LanguageModelPolicy:
    """A policy that trains all weights of ``model``.

    Args:
        model: the causal LM.
        tokenizer: its tokenizer.
        reference: the reference, which is frozen; several policies that start from equal weights may share one. None: a
            copy of the model as it is now.
        temperature: of the distribution that is sampled and trained.
    """
    reference = (copy.deepcopy(model) if reference is None else reference).eval().requires_grad_(False)
    model.requires_grad_(True)
    return LanguageModelPolicy(model, tokenizer, adapter=None, reference=reference, temperature=temperature)


def _inject(model: PreTrainedModel, configs: dict[str, PeftConfig], seed: int) -> None:
    """Puts frozen adapters into the model, one a name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, *others = configs
        tuner = LoraModel(model, configs, first)
        for name in others:
            tuner.inject_adapter(model, name)
    _check_targets(model)
    model.requires_grad_(False)
    for name in configs:
        for parameter in _adapter_parameters(model, name).values():
            parameter.data = parameter.data.float()  # also on a bfloat16 base, where small updates would round away


def _switch(layers: Sequence[Linear], adapter: str | None) -> None:
    """Turns ``adapter`` on, or all off. PEFT turns gradients of the others off along with it; here they stay."""
    trained = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
    for layer in layers:
        if adapter is not None:
            layer.set_adapter(adapter)
        layer.enable_adapters(adapter is not None)
    for layer in layers:
        layer.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def _adapter_parameters(model: PreTrainedModel, adapter: str) -> dict[str, nn.Parameter]:
    """The weights of one adapter under the names that PEFT's files give them."""
    return {
        PEFT_PREFIX + name.replace(f".{adapter}.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name and f".{adapter}." in name
    }


def _copy_into(parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"The weights do not fit the policy: {len(wrong)} of {len(expected)} differ, first {wrong[0]!r} (expected "
            f"shape {expected.get(wrong[0])}, found {found.get(wrong[0])}). Use the model, rank and targets that they "
            "were made with."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def _plain_lora(folder: str | Path) -> LoraConfig:
    if not (Path(folder) / CONFIG_FILE).is_file():
        raise UsageError(f"{folder} holds no {CONFIG_FILE}. Give a folder that a policy's `save` or PEFT wrote.")
    config = LoraConfig.from_pretrained(str(folder))
    if config.use_dora or config.bias != "none" or config.modules_to_save:
        raise UsageError(
            f"The adapter in {folder} is more than plain LoRA (use_dora={config.use_dora}, bias={config.bias!r}, "
            f"modules_to_save={config.modules_to_save}). Merge it into its base first and start from that."
        )
    return config


def _check_targets(model: PreTrainedModel) -> None:
    """Merging changes a weight for every module that holds it, an adapter only for one: they must not differ."""
    holders = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module, Linear):
            raise UsageError(
                f"{name} is no plain linear layer ({type(module).__name__}). Leave it out of `target_modules`."
            )
        if isinstance(module, Linear) and holders[id(module.get_base_layer().weight)] > 1:
            raise UsageError(f"{name} shares its weight with another module. Leave it out of `target_modules`.")
