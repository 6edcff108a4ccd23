"""Arguments of a command: read into its dataclass, with a help page in plain English."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from docstring_parser import parse as parse_docstring
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from waltz_env.errors import UsageError
from waltz_env.judges.spec import MODEL_JUDGES, PLAIN_JUDGES
from waltz_env.rewards import SETUPS, RewardWeights, setup

T = TypeVar("T")

REGISTRY = ConstructorRegistry()


def parse_into(kind: type[T], name: str, arguments: Sequence[str], *, description: str | None = None) -> T:
    """The command ``waltz NAME`` with its arguments.

    Args:
        kind: dataclass of the command; its docstring is the help page.
        name: name of the command.
        arguments: words after the name.
        description: head of the help page in place of the docstring's.

    Raises:
        SystemExit: the arguments are malformed, or ask for help.
    """
    head = plain((description or inspect.cleandoc(kind.__doc__ or "")).partition("\n\nAttributes:")[0])
    return tyro.cli(kind, prog=f"waltz {name}", description=head, args=list(arguments), registry=REGISTRY)


def plain(text: str) -> str:
    """A docstring's text without the marks of its markup, for a terminal."""
    return text.replace("`", "")


@REGISTRY.struct_rule
def described(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Dataclasses with help texts from their docstrings, and defaults and types without Python notation."""
    kind = info.type
    if not is_dataclass(kind) or kind is RewardWeights:
        return None
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        texts |= {each.arg_name: each.description or "" for each in parse_docstring(base.__doc__ or "").params}
    hints = get_type_hints(kind, include_extras=True)
    own = is_dataclass(info.default)
    specs = []
    for each in fields(kind):
        if not each.init:
            continue
        default: Any = tyro.MISSING_NONPROP
        if own:
            default = getattr(info.default, each.name)
        elif each.default is not MISSING:
            default = each.default
        elif each.default_factory is not MISSING:
            default = each.default_factory()
        shown = tyro.conf.arg(metavar=_metavar(hints[each.name]), help_behavior_hint=_default_in_words(default))
        text = plain(" ".join(texts.get(each.name, "").split()) + _known(each.name))
        specs.append(StructFieldSpec(each.name, _with(hints[each.name], shown), default, text))
    return StructConstructorSpec(kind, tuple(specs))


def _with(hint: Any, shown: object) -> Any:
    """``hint`` with ``shown``, which what ``hint`` says itself overrides."""
    inner, metadata = _unwrap(hint)
    return Annotated[(inner, shown, *metadata)]


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (get_args(hint)[0], hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


_WORDS = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH"}


def _metavar(hint: Any) -> str | None:
    """How help pages write a value that may be left out, or several values; None: as tyro writes it."""
    hint, _ = _unwrap(hint)
    if get_origin(hint) in (Union, UnionType):
        inner = [each for each in get_args(hint) if each is not NoneType]
        return _metavar(inner[0]) or _WORDS.get(inner[0]) if len(inner) == 1 else None
    if get_origin(hint) is tuple and get_args(hint)[-1] is ...:
        word = _WORDS.get(get_args(hint)[0])
        return word and f"{word}..."
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    return _WORDS.get(hint)


def _known(name: str) -> str:
    """A sentence that lists what can be named, for help texts."""
    if name == "judge":
        return f" Known: {', '.join([*PLAIN_JUDGES, *MODEL_JUDGES])}; docs/judges.md has all forms of a name."
    if name == "track":
        from waltz_env.algorithms.training.trackers import TRACKERS

        return f" Known: {', '.join(TRACKERS)}; any number, also dotted paths."
    if name in ("algorithm", "algorithms"):
        from waltz_env.algorithms import ALGORITHMS

        return f" Known: {', '.join(ALGORITHMS)}."
    return ""


def _default_in_words(default: object) -> str | None:
    """What follows a help text; None leaves it to tyro."""
    if default is tyro.MISSING_NONPROP:
        return "(required)"
    if isinstance(default, bool):
        return "(on)" if default else "(off)"
    if default is None or default == "" or (isinstance(default, tuple | list) and not default):
        return ""
    return None


@REGISTRY.primitive_rule
def path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """A path that is not empty: ``--out "$FOLDER"`` without that variable would mean the current folder."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_path,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _path(words: Sequence[str]) -> Path:
    if not words[0]:
        raise UsageError("a path must not be empty")
    return Path(words[0])


@REGISTRY.primitive_rule
def reward_weights(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[RewardWeights] | None:
    """``A``, ``B``, ``C``, ``dir-off`` or ``alpha,lambda,gamma[,length][,ungated]`` for ``RewardWeights``."""
    if info.type is not RewardWeights:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join([*SETUPS, "ALPHA,LAMBDA,GAMMA[,LENGTH][,ungated]"]),
        instance_from_str=lambda words: setup(words[0]),
        is_instance=lambda value: isinstance(value, RewardWeights),
        str_from_instance=lambda weights: [_word(weights)],
    )


def _word(weights: Any) -> str:
    names = [name for name, each in SETUPS.items() if each == weights]
    numbers = [weights.improvement, weights.label, weights.format, *([weights.length] if weights.length else [])]
    words = [f"{number:g}" for number in numbers] + ["ungated"] * (not weights.gated)
    return names[0] if names else ",".join(words)
