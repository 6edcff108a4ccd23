"""Both agents in MARTI: a model, an optimizer and vLLM engines for each, on any number of machines.

Written for MARTI (github.com/TsinghuaC3I/MARTI) as of April 2026 and tested with a stub of its engines. We have not run
it on GPUs. docs/trainers.md has the flags. The data has the columns prompt, the request, and kind, harmful or benign.
"""

from __future__ import annotations

import random
from typing import Any

from waltz_env.agents import TEMPLATES
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.interop import Ask, completion_of, play_one, samples_of
from waltz_env.judges import load_judge
from waltz_env.types import Completion, Kind, Observation, Prompt

JUDGE = load_judge("rules")


def asks(agent: dict[str, Any], max_prompt: int) -> Ask:
    """What samples the actions of one of MARTI's agents."""
    role, tokenizer, sampling = agent["agent_role"], agent["tokenizer"], agent["sampling_params"]
    encoder = PromptEncoder(tokenizer, TEMPLATES[role], max_tokens=max_prompt)

    async def ask(observation: Observation) -> Completion:
        (ids,) = encoder.encode([observation])
        result = await agent["llm"].generate_async.remote(prompt_ids=ids, sampling_params=sampling)
        return completion_of(result.outputs[0], ids, tokenizer=tokenizer)

    return ask


def turn(number: int, index: int, agent: dict[str, Any], *, action: Completion, reward: float) -> dict[str, Any]:
    """One row in MARTI's form."""
    prompt, sampled = list(action.prompt_ids or ()), list(action.token_ids or ())
    return {
        "turn_id": number,
        "agent_index": index,
        "agent_id": agent["agent_id"],
        "agent_name": agent["agent_id"],
        "agent_role": agent["agent_role"],
        "agent_input": agent["tokenizer"].decode(prompt),
        "agent_output": action.text,
        "output_ids": sampled,
        "sequence_ids": prompt + sampled,
        "rollout_log_prob": None if action.logprobs is None else [0.0] * len(prompt) + list(action.logprobs),
        "reward": reward,
        "metadata": {},
    }


async def workflow(
    prompt: str, label: str, agents: list[dict[str, Any]], *args: object, max_length: int, **kwargs: object
) -> dict[str, Any]:
    """One game, and one row of each agent: MARTI's baseline wants equally many per prompt.

    A row is a random turn, so the conversation agent learns from drafts and revisions.
    """
    ask = {each["agent_role"]: asks(each, max_length - each["sampling_params"].max_tokens) for each in agents}
    game, rewards = await play_one(Prompt(prompt, Kind(label)), ask, judge=JUDGE)
    rows = []
    for index, agent in enumerate(agents):
        samples = samples_of(agent["agent_role"], game, rewards=rewards)
        number = random.randrange(len(samples))
        action, reward = samples[number]
        rows.append(turn(number, index, agent, action=action, reward=reward))
    return {
        "prompt": prompt,
        "label": label,
        "trajectory": rows,
        "reward_matrix": [[row["reward"]] for row in rows],
        "final_reward": rewards.conversation[-1],
    }


def processor(trajectories: list[dict[str, Any]], num_agents: int, global_args: object) -> list[dict[str, Any]]:
    """Games on one prompt side by side, as the baseline wants them: they arrive in the order in which they end."""
    return sorted(trajectories, key=lambda trajectory: str(trajectory["prompt"]))
