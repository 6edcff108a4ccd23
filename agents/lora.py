"""LoRA adapters in a model: reading a folder of PEFT's, putting adapters in, turning one of them on."""

from __future__ import annotations

import copy
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeGuard

import torch
from peft import LoraConfig, LoraModel, PeftConfig
from peft.tuners.lora import Linear, LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from waltz_env.errors import UsageError
from waltz_env.files import usual_permissions

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PEFT_PREFIX = "base_model.model."

# What an adapter's configuration may say. These settings choose the layers and the scale, tell where the adapter comes
# from, or matter in training alone. With any other setting (DoRA, biases, saved modules, ...) a layer computes
# something other than W + scale * B A, or the base is another one, and neither sampling nor learning covers that.
COVERED_SETTINGS = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "lora_dropout", "init_lora_weights", "eva_config", "megatron_core"),
    }
)
# Ways to draw A and B that leave the base as it is. The others (PiSSA, OLoRA, LoftQ, CorDA, ...) also subtract B A
# from the base's weights, which several roles share here.
COVERED_STARTS = (True, False, "gaussian", "orthogonal", "eva")
_DEFAULTS = {field.name: field.default for field in fields(LoraConfig)}


def read_config(folder: str | Path) -> LoraConfig:
    """The configuration of the adapter in ``folder``, which must be plain LoRA: W + scale * B A and nothing else.

    Raises:
        UsageError: the folder holds no adapter, or one that is more than plain LoRA.
    """
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise UsageError(f"{folder} holds no {CONFIG_FILE}. Give a folder that a policy's `save` or PEFT wrote.")
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    extra = {name: value for name, value in settings.items() if not _covered(name, value)}
    if extra:
        listed = ", ".join(f"{name}={value!r}" for name, value in sorted(extra.items()))
        raise UsageError(
            f"The adapter in {folder} is more than plain LoRA ({listed}). Merge it into its base first and start from "
            "that."
        )
    config = LoraConfig.from_pretrained(str(folder))
    config.init_lora_weights = True  # the weights come from the folder; on loading, PEFT would draw them again
    return config


def _covered(name: str, value: object) -> bool:
    if name == "peft_type":
        return value == "LORA"
    if name == "init_lora_weights":
        return value in COVERED_STARTS
    # Unknown here: a setting of a newer PEFT. It may say anything, as long as it is off.
    return name in COVERED_SETTINGS or not value or value == _DEFAULTS.get(name)


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The weights of the adapter in ``folder``, under PEFT's names.

    Raises:
        UsageError: the folder holds none in safetensors format, or the file is incomplete.
    """
    file = Path(folder) / WEIGHTS_FILE
    if not file.is_file():
        raise UsageError(f"{folder} holds no {WEIGHTS_FILE}. Save the adapter with PEFT in safetensors format.")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UsageError(f"{file} cannot be read, perhaps because it is incomplete: {error}") from error


def save_adapter(folder: Path, config: PeftConfig, state: Mapping[str, Tensor]) -> None:
    """Writes an adapter in PEFT's format; ``state`` has PEFT's names."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(config)
    config.inference_mode = True
    config.save_pretrained(str(folder))
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    usual_permissions(folder)


def base_name(model: PreTrainedModel) -> str | None:
    """Where PEFT finds the base again, from any folder: its name on the hub or an absolute path."""
    name = str(model.name_or_path)
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name or None


def inject(model: PreTrainedModel, configs: dict[str, PeftConfig], *, seed: int) -> None:
    """Puts one frozen adapter per name into the model.

    Raises:
        UsageError: a target is not a plain linear layer, or shares its weight with another module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, *others = configs
        tuner = LoraModel(model, configs, first)
        for name in others:
            tuner.inject_adapter(model, name)
    _check_targets(model)
    model.requires_grad_(False)
    for name in configs:
        for parameter in adapter_parameters(model, name).values():
            parameter.data = parameter.data.float()  # also on a bfloat16 base, where small updates would round away


def add(model: PreTrainedModel, name: str, config: PeftConfig) -> None:
    """Puts one more frozen adapter into a model that has adapters already; global randomness stays as it was."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        LoraModel(model, {name: config}, name)
    model.requires_grad_(False)
    for parameter in adapter_parameters(model, name).values():
        parameter.data = parameter.data.float()
    for parameter in trained:
        parameter.requires_grad_(True)


def lora_layers(model: PreTrainedModel) -> list[Linear]:
    """The layers of the model that hold adapters; none in a plain model."""
    return [module for module in model.modules() if isinstance(module, Linear) or is_quantized(module)]


def is_quantized(module: object) -> TypeGuard[Linear]:
    """Whether this is PEFT's LoRA layer on a linear layer that bitsandbytes has quantized.

    It is told by its name, because PEFT has these classes only where bitsandbytes is installed. Here they are used as
    its plain ``Linear`` is, except that nothing can be merged.
    """
    return isinstance(module, LoraLayer) and type(module).__name__ in ("Linear4bit", "Linear8bitLt")


def switch(layers: Sequence[Linear], adapter: str | None) -> None:
    """Turns ``adapter`` on and the others off; None turns all off.

    PEFT also sets ``requires_grad`` of every adapter by what is on. Here each parameter keeps its own: the forward pass
    of one role, or of the reference, may come between the forward and the backward pass of the other.
    """
    if all(_is_on(layer, adapter) for layer in layers):
        return
    trained = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
    for layer in layers:
        if adapter is not None:
            layer.set_adapter(adapter)
        layer.enable_adapters(adapter is not None)
    for layer in layers:
        layer.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def _is_on(layer: Linear, adapter: str | None) -> bool:
    """Whether ``adapter`` is on in this layer and no other is; None: whether all are off."""
    if adapter is None or layer.disable_adapters:
        return adapter is None and layer.disable_adapters
    return layer.active_adapters == [adapter]


def adapter_parameters(model: PreTrainedModel, adapter: str) -> dict[str, nn.Parameter]:
    """The weights of one adapter under the names that PEFT's files give them."""
    return {
        PEFT_PREFIX + name.replace(f".{adapter}.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name and f".{adapter}." in name
    }


def _check_targets(model: PreTrainedModel) -> None:
    """Merging changes a weight for every module that holds it, an adapter only for one: they must not differ."""
    holders = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not (isinstance(module, Linear) or is_quantized(module)):
            raise UsageError(
                f"{name} is not a plain linear layer ({type(module).__name__}). Leave it out of `target_modules`."
            )
        if isinstance(module, Linear) and holders[id(module.get_base_layer().weight)] > 1:
            raise UsageError(f"{name} shares its weight with another module. Leave it out of `target_modules`.")
