"""An agent that generates with vLLM and can be trained: it gives the ids and log-probabilities that a learner needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.sampling import check_acting, random_stream, row_sampling
from waltz_env.agents.templates import Template
from waltz_env.agents.transformers_agent import as_completion, stop_ids
from waltz_env.agents.vllm_engine import Pinned, VLLMEngine
from waltz_env.agents.vllm_servers import VLLMServers
from waltz_env.errors import UsageError
from waltz_env.sampling_options import SamplingOptions
from waltz_env.types import Completion, Observation


class VLLMAgent:
    """Samples from a policy through a ``VLLMEngine`` or ``VLLMServers``, which several agents share.

    It acts like ``TransformersAgent``: with the same prompts, token for token, with the policy's current weights, and
    with their version on every completion. Every row has a random stream of its own, seeded from the agent's.

    Args:
        engine: an engine that was made for ``policy``.
        policy: the weights, their tokenizer and the temperature.
        template: turns an observation into chat messages.
        max_new_tokens: longest completion, in tokens; one that is cut there has ``finish == "length"``.
        temperature: temperature of acting; None takes the policy's. At any other temperature, completions carry no ids,
            because they are not samples of the policy.
        seed: seeds the random stream.
        max_prompt_tokens: longest prompt, in tokens; None allows what the engine's ``max_model_len`` leaves beside
            ``max_new_tokens``.
        json_schema: JSON schema that all completions follow, unless the length limit cuts them; for the feedback agent
            ``waltz_env.feedback.JSON_SCHEMA``. Use it for acting only: constrained sampling changes the distribution,
            so such completions carry no ids, and a learner refuses them.
        thoughts_end: as in ``TransformersAgent``.

    Raises:
        UsageError: the tokenizer has no chat template, nothing ends a turn, or the limits leave no room for a prompt.
    """

    def __init__(
        self,
        engine: VLLMEngine | VLLMServers,
        policy: LanguageModelPolicy,
        *,
        template: Template,
        max_new_tokens: int,
        temperature: float | None = None,
        seed: int = 0,
        max_prompt_tokens: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
        thoughts_end: str | None = None,
    ) -> None:
        check_acting(max_new_tokens=max_new_tokens, temperature=temperature, max_prompt_tokens=max_prompt_tokens)
        room = engine.max_model_len - max_new_tokens
        if room < 1:
            raise UsageError(
                f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the engine's max_model_len="
                f"{engine.max_model_len}."
            )
        self.engine = engine
        self.policy = policy
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.json_schema = json_schema
        self.thoughts_end = thoughts_end
        self._encoder = PromptEncoder(policy.tokenizer, template, max_tokens=min(room, max_prompt_tokens or room))
        self._stop_ids = stop_ids(policy.model.generation_config, policy.tokenizer)
        self._generator = random_stream(seed)
        self._pinned: Pinned | None = None

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One completion per observation, in order.

        Raises:
            UnreadablePromptError: the model cannot read some prompts, see ``PromptEncoder``.
            SyncError: the policy's weights did not reach the engine.
            DivergedError: the engine computed log-probabilities that are NaN or infinite.
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

        A batch cannot be stopped, so ``should_stop`` is not asked.

        Raises:
            UnreadablePromptError: as in ``act``.
            SyncError: as in ``act``.
            DivergedError: as in ``act``.
        """
        if not observations:
            return []
        version = self.policy.version if self._pinned is None else self._pinned.version
        prompts = self._encoder.encode(observations)
        own = self.policy.temperature if self.temperature is None else self.temperature
        seeds = torch.randint(2**31, (len(prompts),), generator=self._generator).tolist()
        rows = [row_sampling(wanted, temperature=own, limit=self.max_new_tokens) for wanted in options]
        sampling = [
            row._replace(seed=seed if row.seed is None else row.seed % 2**63)  # to vLLM, -1 is no seed
            for row, seed in zip(rows, seeds, strict=True)
        ]
        sampled = self.engine.generate(
            self.policy,
            prompts,
            sampling=sampling,
            stop_ids=self._stop_ids,
            json_schema=self.json_schema,
            pinned=self._pinned,
        )
        return [
            as_completion(
                self.policy.tokenizer,
                prompt,
                result,
                keep_ids=self.json_schema is None and row.on_policy(self.policy.temperature),
                version=version,
                thoughts_end=self.thoughts_end,
            )
            for prompt, row, result in zip(prompts, sampling, sampled, strict=True)
        ]

    def detach(self) -> VLLMAgent:
        """A copy of this agent that goes on with the current weights while the policy is updated, until its next sync.

        Raises:
            UsageError: the engine cannot keep the weights that long, see ``VLLMEngine.pin``.
            SyncError: the weights did not reach the engine.
        """
        agent = copy.copy(self)
        agent._pinned = self.engine.pin(self.policy)
        return agent

    def check_readable(self, observations: Sequence[Observation]) -> None:
        """Checks that the model can read every observation, without acting.

        Raises:
            UnreadablePromptError: it cannot read some of them.
        """
        if observations:
            self._encoder.encode(observations)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random stream, uint8."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state returned by ``state_dict``."""
        self._generator.set_state(state["generator"].cpu())
