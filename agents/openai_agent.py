"""An agent behind any OpenAI-compatible chat server: vLLM, llama.cpp, a hosted model, or ``waltz serve`` itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from waltz_env.agents.templates import Template, encodable
from waltz_env.errors import AgentError, UsageError
from waltz_env.server_client import RETRIES, ServerClient, ServerError
from waltz_env.types import Completion, Finish, Observation

FULL_DISTRIBUTION = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""For vLLM, which otherwise takes these from the model's own ``generation_config.json``."""


class OpenAIAgent:
    """Asks a chat server for each completion, many at a time.

    What may pass is tried again (``ServerClient``). ``act`` works anywhere, notebooks included, and ``aact`` in any
    event loop. An idle agent, ``active == 0``, says nothing and asks nothing.

    Completions carry ids and log-probabilities, as a learner needs them, only with ``token_ids``; without, a learner
    refuses them. Log-probabilities of servers are those of temperature 1 and of the unconstrained distribution, so
    ``token_ids`` goes with neither another temperature nor a schema.

    Args:
        model: its name at the server.
        template: from an observation to chat messages.
        base_url: such as ``http://127.0.0.1:8000/v1``; None: ``$OPENAI_BASE_URL``, or OpenAI's.
        api_key: None: ``$OPENAI_API_KEY``. Local servers take any.
        temperature: of sampling.
        max_tokens: of one completion.
        seed: of sampling: request number n is sent ``seed + n``. None: the server's choice.
        json_schema: the server is asked to hold completions to it (``response_format``), for the feedback role.
        token_ids: ask for sampled ids, as vLLM gives them (``return_token_ids``, ``logprobs``).
        max_concurrent: requests under way at once, over all calls.
        timeout: seconds that one attempt may wait for the next byte.
        deadline: seconds for a whole call, retries and waiting for a turn included.
        retries: of one request, at most.

    Raises:
        UsageError: ``token_ids`` with a temperature or a schema that it does not go with, or a limit that is not above
            zero.
    """

    def __init__(
        self,
        model: str,
        template: Template,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        temperature: float = 1.0,
        max_tokens: int = 512,
        seed: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        max_concurrent: int = 32,
        timeout: float = 60.0,
        deadline: float = 600.0,
        retries: int = RETRIES,
    ) -> None:
        if token_ids and (temperature != 1.0 or json_schema is not None):
            raise UsageError(
                "token_ids=True needs temperature=1.0 and no json_schema: the log-probabilities that a server returns "
                "are not those of any other distribution, and nothing may be learned from them as if they were."
            )
        if max_tokens <= 0:
            raise UsageError(f"max_tokens must be above 0; got {max_tokens}.")
        self.model = model
        self.template = template
        self.seed = seed
        self._sent = 0
        self._token_ids = token_ids
        self._settings = _settings(temperature, max_tokens, json_schema, token_ids)
        self._server = ServerClient(
            base_url=base_url,
            api_key=api_key,
            max_concurrent=max_concurrent,
            timeout=timeout,
            deadline=deadline,
            retries=retries,
        )

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One completion for each observation, in order.

        Raises:
            AgentError: some have none after all retries, or when the deadline came; it carries those that there are.
        """
        return self._server.run(self._act(observations))

    async def aact(self, observations: Sequence[Observation]) -> list[Completion]:
        """``act`` without blocking. Cancelling it drops the requests."""
        return await asyncio.wrap_future(self._server.submit(self._act(observations)))

    def detach(self) -> OpenAIAgent:
        """Itself: the weights are the server's, and no update in this process changes them."""
        return self

    def close(self) -> None:
        """Closes the connections. The agent cannot act after that."""
        self._server.close()

    async def _act(self, observations: Sequence[Observation]) -> list[Completion]:
        first = self._sent
        self._sent += len(observations)
        numbered = enumerate(observations, first)
        requests = [self._request(observation, number) for number, observation in numbered if observation["active"]]
        answers = iter(await self._server.ask("chat/completions", requests))
        outcomes = [self._outcome(next(answers)) if o["active"] else Completion("") for o in observations]
        failures = [outcome for outcome in outcomes if isinstance(outcome, ServerError)]
        if failures:
            _raise_together(outcomes, failures)
        return [outcome for outcome in outcomes if isinstance(outcome, Completion)]

    def _request(self, observation: Observation, number: int) -> dict[str, Any]:
        messages = [{**message, "content": encodable(message["content"])} for message in self.template(observation)]
        request = {"model": self.model, "messages": messages, **self._settings}
        return request if self.seed is None else {**request, "seed": self.seed + number}

    def _outcome(self, answer: str | ServerError) -> Completion | ServerError:
        if isinstance(answer, ServerError):
            return answer
        try:
            return _read(answer, self._token_ids)
        except ValidationError:
            return ServerError(
                f"The server of {self.model!r} at {self._server.base_url} answered with something that is no chat "
                "completion.",
                kind="error",
            )


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Token(BaseModel):
    logprob: float


class _Logprobs(BaseModel):
    content: tuple[_Token, ...] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: _Logprobs | None = None


class _Answer(BaseModel):
    """What is read of a chat completion with one choice; ``prompt_token_ids`` and ``token_ids`` are vLLM's."""

    choices: tuple[_Choice]
    prompt_token_ids: tuple[int, ...] | None = None


def _read(body: str, token_ids: bool) -> Completion:
    """The completion in a server's answer; raises ``ValidationError`` where there is none."""
    answer = _Answer.model_validate_json(body)
    (choice,) = answer.choices
    finish: Finish = "length" if choice.finish_reason == "length" else "stop"
    text = choice.message.content if choice.message.content is not None else choice.message.refusal or ""
    logprobs = tuple(token.logprob for token in (choice.logprobs and choice.logprobs.content) or ())
    ids = choice.token_ids or ()
    if not token_ids or answer.prompt_token_ids is None or not ids or len(ids) != len(logprobs):
        return Completion(text, finish)
    return Completion(text, finish, answer.prompt_token_ids, ids, logprobs)


def _settings(
    temperature: float, max_tokens: int, json_schema: Mapping[str, Any] | None, token_ids: bool
) -> dict[str, Any]:
    settings: dict[str, Any] = {"temperature": temperature, "top_p": 1.0, "max_tokens": max_tokens}
    if json_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(json_schema)}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    if token_ids:
        settings |= {"logprobs": True, "extra_body": {"return_token_ids": True, **FULL_DISTRIBUTION}}
    return settings


def _raise_together(outcomes: Sequence[Completion | ServerError], failures: Sequence[ServerError]) -> NoReturn:
    first = failures[0]
    if len(outcomes) == 1:
        raise AgentError(str(first), kind=first.kind) from first
    raise AgentError(
        f"{len(failures)} of {len(outcomes)} observations have no completion. The first: {first}",
        kind=first.kind,
        partial=[outcome if isinstance(outcome, Completion) else None for outcome in outcomes],
    ) from first
