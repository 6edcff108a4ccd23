"""One running vLLM server, asked over HTTP for what training needs: adapters, token ids and log-probabilities."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from torch import Tensor

from waltz_env.agents.sampling import RowSampling, Sampled
from waltz_env.errors import UsageError
from waltz_env.server_client import ServerError

# What a model's own generation_config.json may set; samples of a policy come from the full distribution.
FULL_DISTRIBUTION = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
_CHECKS = 3  # failed health checks in a row after which a server counts as hanging


class Served(NamedTuple):
    """The base model that a server serves: its name there and its context, in tokens."""

    name: str
    max_model_len: int


class VLLMServer:
    """A vLLM server (``vllm serve MODEL --enable-lora``, with ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``).

    The methods are to be awaited on one event loop. They raise ``ServerError`` if the server does not answer, or not
    with what was asked for; nothing is tried twice, because its games can be played on another server.

    Args:
        url: address, such as ``http://127.0.0.1:8000``.
        timeout: seconds that one request may take.
        patience: seconds after which a server that answers no health check counts as hanging.
    """

    def __init__(self, url: str, *, timeout: float, patience: float) -> None:
        self.url = url
        self._ping = patience / (2 * _CHECKS)  # seconds between health checks, and for each of them
        key = os.environ.get("OPENAI_API_KEY")
        self._client = httpx.AsyncClient(
            base_url=url,
            timeout=timeout,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=None),
        )

    async def served(self) -> Served:
        """The base model."""
        cards = (await self._ask("GET", "/v1/models", timeout=self._ping)).json()["data"]
        base = next((card for card in cards if card.get("parent") is None), None)
        if base is None or not base.get("max_model_len"):
            raise UsageError(f"{self.url} is not a vLLM server: its list of models lacks max_model_len.")
        return Served(base["id"], base["max_model_len"])

    async def watch(self) -> None:
        """Return never; fail once the server has not answered several health checks in a row."""
        missed = 0
        while True:
            await asyncio.sleep(self._ping)
            try:
                await self._ask("GET", "/health", timeout=self._ping)
                missed = 0
            except ServerError:
                missed += 1
                if missed == _CHECKS:
                    raise

    async def load(self, name: str, folder: Path) -> None:
        """Load the adapter in ``folder``, which the server must be able to read, under ``name``.

        Raises:
            UsageError: the server was not started for this.
        """
        body = {"lora_name": name, "lora_path": str(folder)}
        answer = await self._post("/v1/load_lora_adapter", body, accept=(400, 404))
        if answer.status_code == 404 and "lora_name" not in answer.text and name not in answer.text:
            raise UsageError(
                f"The vLLM server at {self.url} does not take adapters. Start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment."
            )
        if answer.is_error:
            raise UsageError(
                f"The vLLM server at {self.url} did not load the adapter in {folder}: {_message(answer)} It must see "
                "this folder (set TMPDIR to a shared one) and allow its rank (--max-lora-rank)."
            )

    async def unload(self, name: str) -> None:
        """Unload an adapter; one that the server does not have, because it was started again, is no error."""
        await self._post("/v1/unload_lora_adapter", {"lora_name": name}, accept=(400, 404))

    async def prompt_logprobs(self, model: str, ids: Sequence[int]) -> Tensor:
        """Log-probabilities (L - 1,) float32 of ``ids`` (L,) except the first, at temperature 1."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0.0}
        choice = self._choice(await self._post("/v1/completions", body))
        values = choice.get("prompt_logprobs") or []
        try:
            return torch.tensor([each[str(token)]["logprob"] for each, token in zip(values[1:], ids[1:], strict=True)])
        except (KeyError, TypeError, ValueError) as error:
            raise self._failed("gave no log-probabilities of the prompt") from error

    async def complete(
        self,
        model: str,
        prompt: Sequence[int],
        *,
        row: RowSampling,
        stop_ids: Sequence[int],
        json_schema: Mapping[str, Any] | None = None,
    ) -> Sampled:
        """One completion of a prompt; ``model`` is the base or an adapter."""
        body = {
            "model": model,
            "prompt": list(prompt),
            "temperature": row.temperature,
            "top_p": row.top_p,
            "seed": row.seed,
            "max_tokens": row.limit,
            "stop_token_ids": list(stop_ids),
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            **FULL_DISTRIBUTION,
            **({"structured_outputs": {"json": dict(json_schema)}} if json_schema else {}),
        }
        choice = self._choice(await self._post("/v1/completions", body))
        ids = choice.get("token_ids") or []
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if not ids or len(ids) != len(logprobs) or None in logprobs:
            raise self._failed("gave no token ids with log-probabilities; it needs vLLM 0.11 or later")
        return Sampled(tuple(ids), tuple(logprobs), choice.get("finish_reason") == "stop")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _choice(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            choice: dict[str, Any] = answer.json()["choices"][0]
        except (ValueError, LookupError, TypeError) as error:
            raise self._failed("answered with something that cannot be read") from error
        return choice

    async def _post(self, path: str, body: Mapping[str, Any], *, accept: Sequence[int] = ()) -> httpx.Response:
        return await self._ask("POST", path, json=body, accept=accept)

    async def _ask(self, method: str, path: str, *, accept: Sequence[int] = (), **arguments: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, **arguments)
        except httpx.TimeoutException as error:
            raise ServerError(f"The vLLM server at {self.url} did not answer in time.", kind="timeout") from error
        except httpx.HTTPError as error:
            reason = f"could not be reached or dropped the connection ({type(error).__name__})"
            raise ServerError(f"The vLLM server at {self.url} {reason}.", kind="unavailable") from error
        if answer.is_error and answer.status_code not in accept:
            raise self._failed(f"answered {path} with status {answer.status_code}")
        return answer

    def _failed(self, what: str) -> ServerError:
        return ServerError(f"The vLLM server at {self.url} {what}.", kind="error")


def _message(answer: httpx.Response) -> str:
    """What a server says about an adapter; no prompt is in such an answer."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return f"status {answer.status_code}."
