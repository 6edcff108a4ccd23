"""One agent trained by verl 0.9; the other one answers from an OpenAI-compatible server, which stays as it is.

Tested with a stub of verl's engines; we have not run it on GPUs. docs/trainers.md has the settings. The data has the
request as the last message of ``prompt``, and harmful or benign as ``reward_model["ground_truth"]``.
"""

import random
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput, register

from waltz_env.agents import TEMPLATES, OpenAIAgent
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.interop import play_one, samples_of
from waltz_env.judges import load_judge
from waltz_env.server_client import ServerClient
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Kind, Observation, Prompt

TRAINED, OTHER = FEEDBACK, CONVERSATION
PARTNER = OpenAIAgent("partner", TEMPLATES[OTHER], server=ServerClient("http://127.0.0.1:8000/v1", api_key="none"))
JUDGE = load_judge("rules")


@register("waltz")
class WaltzLoop(AgentLoopBase):  # type: ignore[misc]  # verl is not checked
    """A game per run; a random turn of the trained agent is the row."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Play on one line of the data."""
        encoder = PromptEncoder(self.tokenizer, TEMPLATES[TRAINED], max_tokens=self.rollout_config.prompt_length)

        async def trained(observation: Observation) -> Completion:
            (ids,) = encoder.encode([observation])
            output = await self.server_manager.generate(
                request_id=uuid4().hex, prompt_ids=ids, sampling_params=sampling_params
            )
            sampled = output.token_ids[: self.rollout_config.response_length]
            text = self.tokenizer.decode(sampled, skip_special_tokens=True)
            logprobs = tuple(output.log_probs[: len(sampled)]) if output.log_probs else None
            return Completion(text, prompt_ids=tuple(ids), token_ids=tuple(sampled), logprobs=logprobs)

        async def partner(observation: Observation) -> Completion:
            (completion,) = await PARTNER.aact([observation])
            return completion

        prompt = Prompt(kwargs["raw_prompt"][-1]["content"], Kind(kwargs["reward_model"]["ground_truth"]))
        game, rewards = await play_one(prompt, {TRAINED: trained, OTHER: partner}, judge=JUDGE)
        action, reward = random.choice(samples_of(TRAINED, game, rewards=rewards))
        return AgentLoopOutput(
            prompt_ids=list(action.prompt_ids or ()),
            response_ids=list(action.token_ids or ()),
            response_mask=[1] * len(action.token_ids or ()),
            response_logprobs=None if action.logprobs is None else list(action.logprobs),
            reward_score=reward,
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields={"turn_scores": [], "tool_rewards": []},
        )
