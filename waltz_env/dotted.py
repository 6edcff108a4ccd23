"""Objects of other packages by the path ``package.module:NAME``."""

from __future__ import annotations

from importlib import import_module

from waltz_env.errors import UsageError


def load_object(path: str) -> object:
    """What ``path`` names.

    >>> load_object("math:pi")
    3.141592653589793

    Raises:
        UsageError: it cannot be imported.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"Nothing could be imported from {path!r}, as package.module:NAME: {error}") from error
