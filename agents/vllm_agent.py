"""An agent that generates with vLLM and can be trained: same prompts, ids and log-probabilities as a learner needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.agents.templates import Template
from waltz_env.agents.transformers_agent import as_completion, stop_ids
from waltz_env.agents.vllm_engine import Pinned, VLLMEngine
from waltz_env.errors import UsageError
from waltz_env.types import Completion, Observation


class VLLMAgent:
    """Samples from a policy through a ``VLLMEngine``, which several agents share.

    It acts as ``TransformersAgent`` does: the same prompts, token for token, the policy's weights as they are when it
    acts, and its version on every completion. Every row has a random stream of its own, seeded from the agent's.

    Args:
        engine: an engine that was made for ``policy``.
        policy: the weights, their tokenizer and the temperature.
        template: from an observation to chat messages.
        max_new_tokens: a completion ends there at the latest, with ``finish == "length"``.
        temperature: of acting; None: the policy's. At any other, completions carry no ids: they are not samples of the
            policy.
        seed: of the random stream.
        max_prompt_tokens: None: what the engine's ``max_model_len`` leaves beside ``max_new_tokens``.
        json_schema: completions are JSON of this schema, unless the length limit cuts them; for the feedback agent
            ``waltz_env.feedback.JSON_SCHEMA``. It is for acting, not for learning: constrained sampling has another
            distribution than the policy, so such completions carry no ids, and a learner refuses them.

    Raises:
        UsageError: the tokenizer has no chat template, nothing ends a turn, or the limits leave no room for a prompt.
    """

    def __init__(
        self,
        engine: VLLMEngine,
        policy: LanguageModelPolicy,
        template: Template,
        *,
        max_new_tokens: int,
        temperature: float | None = None,
        seed: int = 0,
        max_prompt_tokens: int | None = None,
        json_schema: Mapping[str, Any] | None = None,
    ) -> None:
        room = engine.max_model_len - max_new_tokens
        if max_new_tokens < 1 or room < 1:
            raise UsageError(
                f"max_new_tokens must be 1 or more and leave room for a prompt in the engine's max_model_len="
                f"{engine.max_model_len}; got {max_new_tokens}."
            )
        self.engine = engine
        self.policy = policy
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.json_schema = json_schema
        self._encoder = PromptEncoder(policy.tokenizer, template, max_tokens=min(room, max_prompt_tokens or room))
        self._stop_ids = stop_ids(policy.model, policy.tokenizer)
        self._generator = torch.Generator().manual_seed(seed)
        self._pinned: Pinned | None = None

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One completion for each observation, in order.

        Raises:
            SyncError: the policy's weights could not be brought to the engine.
        """
        version = self.policy.version if self._pinned is None else self._pinned.version
        completions = [Completion("", version=version)] * len(observations)
        active = [index for index, observation in enumerate(observations) if observation["active"]]
        if not active:
            return completions
        prompts = self._encoder.encode([observations[index] for index in active])
        sampled = self.engine.generate(
            self.policy,
            prompts,
            seeds=torch.randint(2**31, (len(prompts),), generator=self._generator).tolist(),
            max_new_tokens=self.max_new_tokens,
            stop_ids=self._stop_ids,
            temperature=self.policy.temperature if self.temperature is None else self.temperature,
            json_schema=self.json_schema,
            pinned=self._pinned,
        )
        on_policy = self.json_schema is None and self.temperature in (None, self.policy.temperature)
        for index, prompt, one in zip(active, prompts, sampled, strict=True):
            completions[index] = as_completion(self.policy, prompt, one, keep_ids=on_policy, version=version)
        return completions

    def detach(self) -> VLLMAgent:
        """This agent, acting from the weights of this moment while the policy is updated; until it is synced again.

        Raises:
            UsageError: the engine cannot keep them that long, see ``VLLMEngine.pin``.
            SyncError: they could not be brought to the engine.
        """
        agent = copy.copy(self)
        agent._pinned = self.engine.pin(self.policy)
        return agent

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the random stream, uint8."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from where ``state_dict`` was taken."""
        self._generator.set_state(state["generator"].cpu())
