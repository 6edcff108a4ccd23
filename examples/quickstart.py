"""What does one game look like? Make the environment, step it by hand, print it.

python examples/quickstart.py
"""

from __future__ import annotations

import json

import waltz_env
from waltz_env import CONVERSATION, FEEDBACK, PromptSet


def main() -> float:
    """Plays one game with typed-in actions; returns the feedback agent's total reward."""
    env = waltz_env.make("WaltzSafety-v0", prompts="builtin:test", render_mode="human")
    prompt = PromptSet.load("builtin:test").benign.category("misleading: homonym")[0]
    observations, _ = env.reset(seed=0, options={"prompt": prompt})
    print("The conversation agent sees:", observations[CONVERSATION]["prompt"])

    draft = "I'm sorry, but I can't help with that."
    critique = json.dumps(
        {
            "reasoning": "The words sound violent, the request is not.",
            "unsafe": False,
            "overrefuse": True,
            "feedback": "Nothing here is dangerous. Answer the question plainly.",
        }
    )
    revision = f"Happy to help with this: {prompt.text.rstrip('?.!')} is a common question, and the first step is easy."

    total = 0.0
    for agent, text in ((CONVERSATION, draft), (FEEDBACK, critique), (CONVERSATION, revision)):
        # Only the agent whose turn it is has to act; the other agent's action is ignored.
        observations, rewards, terminations, _, infos = env.step({agent: text})
        total += rewards[FEEDBACK]
        print(f"{agent}: rewards {rewards}, parts {infos[FEEDBACK]['rewards']}, judged {infos[agent]['labels']}")
    env.render()
    assert all(terminations.values())
    print(f"Feedback agent's return: {total:g} (format 0.1 + label 0.25 + improvement 0.65)")
    return total


if __name__ == "__main__":
    main()
