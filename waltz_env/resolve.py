"""Algorithms, judges and presets by name: included ones, those of installed packages, and any by its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import reduce
from importlib import import_module, metadata
from typing import TypeVar

from waltz_env.errors import UsageError, did_you_mean, unknown_name

T = TypeVar("T")


def resolve(
    kind: str,
    name: str,
    *,
    known: Mapping[str, object],
    expected: type[T],
    entry_points: str,
    also_known: Iterable[str] = (),
) -> T:
    """The object called ``name``, whether included, installed or named by its path.

    What the name leads to may be the object itself or a callable that returns it when it is called without arguments,
    such as its class.

    Args:
        kind: what the object is, for messages: ``"algorithm"``, ``"judge"``, ``"preset"``.
        name: one of ``known``, the name of an entry point, or a dotted path ``package.module:NAME``.
        known: included objects by name; they go before entry points of the same name.
        expected: type or runtime-checkable protocol of the object.
        entry_points: group in which other packages register their objects.
        also_known: further names for the message about an unknown name, such as forms that the caller reads itself.

    Raises:
        UsageError: nothing has that name (the nearest one is suggested), nothing can be imported from that path, or the
            name leads to an object of another type.
    """
    target = locate(kind, name, known=known, entry_points=entry_points, also_known=also_known)
    return _object(kind, name, target, expected)


def locate(
    kind: str, name: str, *, known: Mapping[str, object], entry_points: str, also_known: Iterable[str] = ()
) -> object:
    """What ``name`` leads to, as it is: ``resolve`` without the call and the check of its type."""
    if name in known:
        return known[name]
    if ":" in name:
        return _imported(name, name, (*known, *also_known))
    installed = {entry.name: entry.value for entry in metadata.entry_points(group=entry_points)}
    if name not in installed:
        raise unknown_name(kind, name, {*known, *installed, *also_known})
    return _imported(name, installed[name], ())


def _imported(name: str, path: str, known: Iterable[str]) -> object:
    """The object at ``path``; ``name``, as the user wrote it, is what messages show."""
    source = repr(name) if name == path else f"{path!r}, the entry point {name!r}"
    problem = f"Nothing could be imported from {source}, as package.module:NAME"
    module_name, _, attributes = path.partition(":")
    if not all(part.isidentifier() for part in f"{module_name}.{attributes}".split(".")):
        raise UsageError(f"{problem}.{did_you_mean(module_name, known)}")
    try:
        module = import_module(module_name)
    except ImportError as error:
        missing = error.name == module_name.split(".")[0]  # and not one of the libraries that the module imports
        raise UsageError(f"{problem}: {error}.{did_you_mean(module_name, known if missing else ())}") from error
    try:
        return reduce(getattr, attributes.split("."), module)
    except AttributeError as error:
        raise UsageError(f"{problem}: {error}.{did_you_mean(attributes, dir(module))}") from error


def _object(kind: str, name: str, target: object, expected: type[T]) -> T:
    """``target`` if it is what is expected, otherwise what it returns when it is called."""
    result = target
    # A class has the methods of its objects and therefore passes for a Protocol: classes are always called.
    if isinstance(target, type) or (callable(target) and not isinstance(target, expected)):
        if not _callable_without_arguments(target):
            raise UsageError(f"The {kind} {name!r} leads to {target!r}, which cannot be called without arguments.")
        result = target()
    if isinstance(result, expected) and not isinstance(result, type):
        return result
    raise UsageError(
        f"The {kind} {name!r} leads to {result!r}; a {expected.__module__}.{expected.__qualname__} is expected, "
        "or something that returns one when it is called without arguments."
    )


def _callable_without_arguments(target: object) -> bool:
    try:
        inspect.signature(target).bind()  # type: ignore[arg-type]  # whoever calls this has asked callable()
    except (TypeError, ValueError):  # it needs arguments; or it is built in and has no signature
        return False
    return True
