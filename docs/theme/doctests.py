"""Doctests of docstrings as code, wherever in a docstring they stand."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Doctests(Extension):
    """Fences each doctest: griffe takes one outside a section of examples for Markdown, and ``>>>`` for a quotation."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Changes the docstring of a module, class, function or attribute that was read."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
