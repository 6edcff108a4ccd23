"""``waltz push``: an export, and the games if wanted, as repositories on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: httpx's or httpx2's, by the version
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
)

from waltz_env.errors import UsageError
from waltz_env.experiments.pairs import HUB_NAME
from waltz_env.export.folder import write_export
from waltz_env.export.weights import plan
from waltz_env.run_folder import RunFolder


def push_run(
    run: RunFolder,
    to: str,
    *,
    role: str | None = None,
    merged: bool = False,
    base_name: str | None = None,
    games: bool = False,
    public: bool = False,
    api: HfApi | None = None,
) -> list[str]:
    """Upload what a run has trained, with its card, and with ``games`` its games as a data set ``TO-games``.

    Args:
        run: folder of a finished run.
        to: repository, ``"USER/NAME"``; it is created if it does not exist.
        role: as for ``export_run``.
        merged: as for ``export_run``.
        base_name: as for ``export_run``.
        games: whether to upload the games too; they hold harmful prompts.
        public: whether everybody may see what is uploaded.
        api: connection to the hub; the default uses the token of ``hf auth login`` and ``$HF_ENDPOINT``.

    Returns:
        The addresses of the repositories.

    Raises:
        UsageError: the arguments do not fit the run, adapters have a base that the hub does not have, a repository is
            public and ``public`` is not set, or the hub refuses. Nothing has been uploaded then.
        CheckpointError: the run is not finished.
    """
    if not HUB_NAME.fullmatch(to):
        raise UsageError(f"--to names a repository, USER/NAME; got {to!r}.")
    export = plan(run, role=role, merged=merged, base_name=base_name)
    if export.brings_base:
        raise UsageError(
            f"The base model of {run.path} is not on the hub. Push whole models with --merged, or name the base as the "
            "hub has it with --base."
        )
    api = api or HfApi()
    with TemporaryDirectory() as temporary, _told():
        weights, tables = Path(temporary, "weights"), Path(temporary, "games")
        for folder in (weights, tables):
            folder.mkdir()
        if games:
            from waltz_env.export.parquet import write_parquet  # needs pyarrow, which weights do not

            if not write_parquet(run, tables):
                raise UsageError(f"{run.path} holds no games. Push it without --games.")
        uploads = {"model": (to, weights)} | ({"dataset": (f"{to}-games", tables)} if games else {})
        addresses = [_open(api, name, repo_type=repo_type, public=public) for repo_type, (name, _) in uploads.items()]
        write_export(export, weights, name=to, at=weights)
        for repo_type, (name, folder) in uploads.items():
            api.upload_folder(
                repo_id=name, folder_path=folder, repo_type=repo_type, commit_message=f"waltz push of {run.path.name}"
            )
    return addresses


def _open(api: HfApi, name: str, *, repo_type: str, public: bool) -> str:
    """The address of a repository that exists and is private, unless ``public``."""
    address = api.create_repo(name, repo_type=repo_type, private=not public, exist_ok=True)
    if not public and not api.repo_info(name, repo_type=repo_type).private:
        raise UsageError(f"{name} exists and is public. Add --public, or choose another --to.")
    return str(address)


@contextmanager
def _told() -> Iterator[None]:
    """Turn failures of the hub into errors of this package."""
    try:
        yield
    except HFValidationError as error:
        raise UsageError(f"The hub does not accept this name: {error}") from error
    except LocalTokenNotFoundError as error:
        raise UsageError("The hub needs a token that may write: hf auth login, or $HF_TOKEN.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = " Log in with a token that may write: hf auth login." if status in (401, 403) else ""
        raise UsageError(f"The hub refused ({status}): {error.server_message or error}.{hint}") from error
    except HTTPError as error:
        raise UsageError(f"The hub cannot be reached: {error}") from error
