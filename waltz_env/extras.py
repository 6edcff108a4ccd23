"""How to install what an optional part of the package needs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires


def install_command(*extras: str) -> str:
    """Return a command that installs the requirements of these extras, wherever it is run.

    It names the requirements themselves, as ``waltz-env`` is not on PyPI.
    """
    try:
        lines = requires("waltz-env") or []
    except PackageNotFoundError:  # imported from a checkout that is not installed
        return f"pip install -e '.[{','.join(extras)}]' in the checkout"
    split = [line.partition(";")[::2] for line in lines]
    markers = {f"extra=={quote}{extra}{quote}" for extra in extras for quote in "\"'"}
    needed = {name.strip() for name, marker in split if marker.replace(" ", "") in markers}
    return " ".join(["pip install", *(f"'{name}'" for name in sorted(needed))])
