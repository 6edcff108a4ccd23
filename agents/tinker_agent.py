"""An agent that generates on a service with the Tinker API and can be trained there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.sampling import RowSampling, Sampled, check_acting, random_stream, row_sampling
from waltz_env.agents.templates import Template
from waltz_env.agents.tinker_policy import TinkerPolicy, service_at_work
from waltz_env.agents.transformers_agent import as_completion, stop_ids
from waltz_env.errors import AgentError, DivergedError
from waltz_env.sampling_options import SamplingOptions
from waltz_env.types import Completion, Observation


class TinkerAgent:
    """Samples from a ``TinkerPolicy``, with the ids and log-probabilities that a learner needs.

    It acts like ``TransformersAgent``: with the same prompts, token for token, with the policy's current weights, and
    with their version on every completion. Every row is a request of its own, with a seed from the agent's random
    stream; whether equal seeds give equal samples is up to the service.

    Args:
        policy: the weights and their tokenizer.
        template: turns an observation into chat messages.
        max_new_tokens: longest completion, in tokens; one that is cut there has ``finish == "length"``.
        max_prompt_tokens: longest prompt, in tokens; what the model's context leaves beside ``max_new_tokens``.
        temperature: temperature of acting; None takes the policy's. At any other temperature, completions carry no ids,
            because they are not samples of the policy.
        seed: seeds the random stream.
        generation_config: the model's, which may name more tokens that end a turn than the tokenizer does.

    Raises:
        UsageError: the tokenizer has no chat template, or nothing ends a turn.
    """

    def __init__(
        self,
        policy: TinkerPolicy,
        template: Template,
        *,
        max_new_tokens: int,
        max_prompt_tokens: int,
        temperature: float | None = None,
        seed: int = 0,
        generation_config: GenerationConfig | None = None,
    ) -> None:
        check_acting(max_new_tokens=max_new_tokens, temperature=temperature, max_prompt_tokens=max_prompt_tokens)
        self.policy = policy
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.encoder = PromptEncoder(policy.tokenizer, template, max_tokens=max_prompt_tokens)
        self._stop_ids = stop_ids(generation_config, policy.tokenizer)
        self._generator = random_stream(seed)
        self._kept: tuple[Any, int] | None = None  # a sampling client and its version, if this is a detached copy

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One completion per observation, in order.

        Raises:
            UnreadablePromptError: the model cannot read some prompts, see ``PromptEncoder``.
            AgentError: the service failed.
            DivergedError: the service computed log-probabilities that are NaN or infinite.
        """
        return self.act_with(observations, [SamplingOptions()] * len(observations))

    def act_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[Completion]:
        """Do the same as ``act``, each completion sampled by its own options; see ``SamplingAgent``.

        Requests cannot be taken back, so ``should_stop`` is not asked.

        Raises:
            UnreadablePromptError: as in ``act``.
            AgentError: as in ``act``.
            DivergedError: as in ``act``.
        """
        if not observations:
            return []
        prompts = self.encoder.encode(observations)
        own = self.policy.temperature if self.temperature is None else self.temperature
        seeds = torch.randint(2**31, (len(prompts),), generator=self._generator).tolist()
        rows = [row_sampling(wanted, temperature=own, limit=self.max_new_tokens) for wanted in options]
        rows = [
            row._replace(seed=seed if row.seed is None else row.seed % 2**31)
            for row, seed in zip(rows, seeds, strict=True)
        ]
        sampler, version = self._kept or (self.policy.sampler(), self.policy.version)
        with service_at_work(f"it was to sample {len(rows)} completions"):
            futures = [self._request(sampler, prompt, row) for prompt, row in zip(prompts, rows, strict=True)]
            sampled = [self._read(future.result().sequences[0]) for future in futures]
        return [
            as_completion(
                self.policy.tokenizer,
                prompt,
                result,
                keep_ids=row.on_policy(self.policy.temperature),
                version=version,
            )
            for prompt, row, result in zip(prompts, rows, sampled, strict=True)
        ]

    def detach(self) -> TinkerAgent:
        """A copy of this agent that goes on with the current weights while the policy is updated.

        Raises:
            AgentError: the service failed.
        """
        agent = copy.copy(self)
        agent._kept = (self.policy.sampler(), self.policy.version)
        return agent

    def check_readable(self, observations: Sequence[Observation]) -> None:
        """Checks that the model can read every observation, without acting.

        Raises:
            UnreadablePromptError: it cannot read some of them.
        """
        if observations:
            self.encoder.encode(observations)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random stream, uint8."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state returned by ``state_dict``."""
        self._generator.set_state(state["generator"].cpu())

    def _request(self, sampler: Any, prompt: Sequence[int], row: RowSampling) -> Any:
        """The future of one completion."""
        from tinker import types

        parameters = types.SamplingParams(
            max_tokens=row.limit, temperature=row.temperature, top_p=row.top_p, seed=row.seed, stop=self._stop_ids
        )
        return sampler.sample(types.ModelInput.from_ints(list(prompt)), 1, parameters)

    def _read(self, sequence: Any) -> Sampled:
        tokens, logprobs = tuple(sequence.tokens), tuple(sequence.logprobs or ())
        if len(logprobs) != len(tokens):
            raise AgentError(
                f"The Tinker service gave {len(logprobs)} log-probabilities for {len(tokens)} tokens; training needs "
                "one for each. Use a server that returns them."
            )
        if not all(map(math.isfinite, logprobs)):
            raise DivergedError(
                f"{self.policy.model} computes log-probabilities that are NaN or infinite on the Tinker service."
            )
        return Sampled(tokens, logprobs, stopped=bool(tokens) and tokens[-1] in self._stop_ids)
