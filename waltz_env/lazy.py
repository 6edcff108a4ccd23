"""Attributes of a package that are imported on first use, and old names that still work."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_attributes(
    package: str, *, on_first_use: Mapping[str, str] | None = None, renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__``, as PEP 562 defines them.

    Call it under ``if not TYPE_CHECKING``, and import the same names from their modules under ``if TYPE_CHECKING``.
    Type checkers then know each type, and a misspelled name remains an error::

        if TYPE_CHECKING:
            from waltz_env.agents.openai_agent import OpenAIAgent
        else:
            __getattr__, __dir__ = lazy_attributes(
                __name__,
                on_first_use={"OpenAIAgent": "openai_agent"},
                renamed={"Policy": "waltz_env.agents.LanguageModelPolicy"},
            )

    Args:
        package: the package's ``__name__``.
        on_first_use: name -> the submodule that defines it, relative to the package.
        renamed: old name -> full dotted path of what replaces it. The old name still works, with a
            ``DeprecationWarning`` that gives the new path; ``dir`` does not list it.
    """
    modules, replacements = dict(on_first_use or {}), dict(renamed or {})

    def get(name: str) -> object:
        if name in modules:
            return getattr(import_module(f"{package}.{modules[name]}"), name)
        if name in replacements:
            warnings.warn(
                f"{package}.{name} is deprecated: use {replacements[name]}.", DeprecationWarning, stacklevel=2
            )
            module, _, new_name = replacements[name].rpartition(".")
            return getattr(import_module(module), new_name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names
