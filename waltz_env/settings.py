"""Settings as JSON values and back: what a run folder and a checkpoint keep of a recipe.

A dataclass becomes an object whose ``type`` names its class, ``package.module:Class``, so that settings of other
packages are read back as what they were. Reading imports that module and makes nothing but dataclasses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from waltz_env.errors import DataError, UsageError, UsageTypeError, did_you_mean

TYPE = "type"


def encode(value: Any) -> Any:
    """``value`` as JSON values.

    >>> from waltz_env.rules import Rules
    >>> encode({"rules": Rules(max_rounds=2)})["rules"]["max_rounds"]
    2

    Args:
        value: dataclasses, mappings with string keys, sequences, numbers (also NumPy's), strings, paths, None.

    Raises:
        UsageError: there is something else among them.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else str(number)  # JSON has neither; a float's field reads the word back
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: encode(getattr(value, field.name)) for field in fields(value) if field.init}
        return {TYPE: f"{type(value).__module__}:{type(value).__qualname__}"} | own
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or name == TYPE:
                raise UsageError(f"{value!r} cannot be kept with a run: names are strings other than {TYPE!r}.")
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [encode(item) for item in value]
    raise UsageError(
        f"{value!r} cannot be kept with a run. Settings are made of dataclasses, mappings, sequences, numbers and "
        f"strings; make {type(value).__name__} a frozen dataclass."
    )


def decode(value: Any) -> Any:
    """The inverse of ``encode``; sequences become tuples.

    Raises:
        DataError: a ``type`` cannot be imported or is not a dataclass, a field is unknown, or a value does not fit.
        UsageError: a dataclass refuses its values.
    """
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    items = {name: decode(item) for name, item in value.items() if name != TYPE}
    return items if TYPE not in value else _dataclass(value[TYPE], items)


def _dataclass(path: Any, items: dict[str, Any]) -> Any:
    if not isinstance(path, str) or path.startswith("."):
        raise DataError(f"The type of settings must be a string, package.module:Class; got {path!r}.")
    module, _, name = path.partition(":")
    try:
        target: Any = import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"Settings of the type {path!r} cannot be read: {error}. Is the package that defines it installed?"
        ) from error
    if not (isinstance(target, type) and is_dataclass(target)):
        raise DataError(f"Settings name the type {path!r}, which is not a dataclass.")
    known = [field.name for field in fields(target) if field.init]
    for item in items:
        if item not in known:
            raise DataError(
                f"{target.__name__} has no setting {item!r}.{did_you_mean(item, known)} Known: {', '.join(known)}."
            )
    hints = get_type_hints(target)
    checked = {item: _checked(target, item, value, hints[item]) for item, value in items.items()}
    try:
        return target(**checked)
    except UsageTypeError as error:
        raise DataError(f"Settings of {target.__name__} do not fit: {error}") from error
    except TypeError as error:
        raise DataError(f"Settings of {target.__name__} are incomplete: {error}.") from error


def _checked(owner: type, name: str, value: Any, hint: Any) -> Any:
    """A value of plain JSON as the type that its field declares; what holds dataclasses has been checked by them."""
    if _holds_dataclass(value):
        return value
    from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(value)
    except PydanticSchemaGenerationError:  # a protocol, say; the class checks what it is given
        return value
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DataError(f"The setting {name!r} of {owner.__name__} cannot be {value!r}: {reason}.") from error


def _holds_dataclass(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return any(is_dataclass(item) for item in items)
