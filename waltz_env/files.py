"""Atomic writes: a file or folder appears complete or not at all, even if the process crashes."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waltz_env.errors import UsageError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces ``path`` when the block ends without an error.

    Missing parent folders are created. After an error ``path`` is unchanged. What is not a file, such as a folder or
    ``/dev/null``, is never replaced: that is a ``UsageError``.

    >>> with atomic_path(folder / "results.json") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("{}")
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is there already and is not a file; choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        usual_permissions(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty temporary folder to fill; it becomes ``path`` when the block ends without an error.

    Missing parent folders are created. If another process was faster, its ``path`` stays.

    >>> with atomic_folder("model") as temporary:  # doctest: +SKIP
    ...     model.save_pretrained(temporary)
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        usual_permissions(temporary)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def usual_permissions(path: Path) -> None:
    """Gives a file, or all files in a folder, the permissions that new files have.

    Some libraries, such as safetensors, write files that only their owner can read.
    """
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


def writable_folder(path: str | Path) -> Path:
    """Makes a folder, unless it exists, and checks that it can be written, before the work whose results it gets.

    Raises:
        UsageError: the folder cannot be made or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".{secrets.token_hex(4)}.tmp"
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}. Choose another --out.") from error
    return path


def writable_file(path: str | Path) -> Path:
    """Checks that a file can be written, with the folders above it: before the work whose results it gets.

    Raises:
        UsageError: it cannot, or something else is there already.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file; name one with --out.")
    writable_folder(path.parent)
    return path


@contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Keeps other processes, and other users of ``alone`` in this one, out of an existing folder meanwhile.

    The lock ends with the process, however it ends. Systems without ``flock`` have none.

    Raises:
        UsageError: another process is at work there.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UsageError(f"Another process is at work in {folder}. Wait for it, or choose another --out.") from error
    try:
        yield
    finally:
        os.close(descriptor)
