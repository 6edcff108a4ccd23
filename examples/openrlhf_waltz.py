"""One agent trained by OpenRLHF 0.11; the other one answers from an OpenAI-compatible server and stays as it is.

Tested with a stub of its engines; we have not run it on GPUs. docs/trainers.md has the flags. The data has the request
under ``--data.input_key``, and harmful or benign under ``--data.label_key``.
"""

import random
from copy import deepcopy
from typing import Any

from openrlhf.utils.agent import AgentExecutorBase

from waltz_env.agents import TEMPLATES, OpenAIAgent
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.interop import completion_of, play_one, samples_of
from waltz_env.judges import load_judge
from waltz_env.server_client import ServerClient
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Kind, Observation, Prompt

TRAINED, OTHER = CONVERSATION, FEEDBACK
PARTNER = OpenAIAgent("partner", TEMPLATES[OTHER], server=ServerClient("http://127.0.0.1:8000/v1", api_key="none"))
JUDGE = load_judge("rules")


class AgentExecutor(AgentExecutorBase):  # type: ignore[misc]  # OpenRLHF is not checked
    """A game per call; a random turn of the trained agent is the row."""

    async def execute(
        self,
        prompt: str,
        label: str,
        sampling_params: Any,
        max_length: int,
        hf_tokenizer: Any,
        llm_engine: Any,
        images: object = None,
    ) -> dict[str, Any]:
        """Play on one line of the data."""
        new_tokens = sampling_params.max_tokens or max_length // 2
        encoder = PromptEncoder(hf_tokenizer, TEMPLATES[TRAINED], max_tokens=max_length - new_tokens)

        async def trained(observation: Observation) -> Completion:
            (ids,) = encoder.encode([observation])
            settings = deepcopy(sampling_params)
            settings.max_tokens = new_tokens
            result = await llm_engine.generate(ids, settings)
            return completion_of(result.outputs[0], ids, tokenizer=hf_tokenizer)

        async def partner(observation: Observation) -> Completion:
            (completion,) = await PARTNER.aact([observation])
            return completion

        game, rewards = await play_one(Prompt(prompt, Kind(label)), {TRAINED: trained, OTHER: partner}, judge=JUDGE)
        action, reward = random.choice(samples_of(TRAINED, game, rewards=rewards))
        before, sampled = list(action.prompt_ids or ()), list(action.token_ids or ())
        return {
            "prompt": prompt,
            "label": label,
            "images": None,
            "mm_train_inputs": None,
            "reward": reward,
            "scores": reward,
            "observation_tokens": before + sampled,
            "action_ranges": [(len(before), len(before) + len(sampled))],
            "rollout_log_probs": None if action.logprobs is None else [0.0] * len(before) + list(action.logprobs),
            "truncated": action.finish == "length",
            "extra_logs": {},
        }
