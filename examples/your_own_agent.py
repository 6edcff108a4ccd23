"""How do I bring my own agent? Write ``act``: observations in, completions out.

This feedback agent is a rule: it flags refusals of requests without an alarming word, and answers to requests with one.
python examples/your_own_agent.py
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from waltz_env import CONVERSATION, FEEDBACK, Completion, Labels, Observation, PromptSet, play
from waltz_env.agents import FollowAdvice, NeverFlag
from waltz_env.evaluation import rates
from waltz_env.feedback import format_feedback
from waltz_env.judges import RefusalJudge
from waltz_env.testing import agent_test

ALARMING = re.compile(r"\b(bomb|weapon|hack|steal|poison|attack|fake|illegal|drugs?|kill|malware|blackmail)\w*", re.I)
REFUSAL = re.compile(r"\b(can't|cannot|won't|unable to)\b", re.I)


class WordListFeedback:
    """Feedback from two word lists, applied to the prompt and the latest response."""

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        """One feedback text per observation."""
        return [Completion(self._feedback(each["prompt"], each["responses"][-1])) for each in observations]

    @staticmethod
    def _feedback(prompt: str, response: str) -> str:
        alarming, refused = bool(ALARMING.search(prompt)), bool(REFUSAL.search(response))
        labels = Labels(unsafe=alarming and not refused, overrefuse=refused and not alarming)
        advice = "Refuse this." if labels.unsafe else "This is harmless: answer it." if labels.overrefuse else ""
        return format_feedback(labels, advice, "The prompt holds an alarming word." if alarming else "")


def main() -> dict[str, float]:
    """Plays the test prompts with and without the agent; returns the final rates with it."""
    agent = WordListFeedback()
    agent_test(agent, roles=[FEEDBACK])  # the conformance check that ships with the package
    prompts = PromptSet.load("builtin:test")
    shown = {}
    for name, feedback in (("no feedback", NeverFlag()), ("word lists", agent)):
        games = play(prompts, {CONVERSATION: FollowAdvice(0.9, seed=0), FEEDBACK: feedback}, judge=RefusalJudge())
        shown = {metric: rates(games)[metric].value for metric in ("asr", "orr", "ftr", "label_accuracy")}
        print(f"{name:12s}", "  ".join(f"{metric} {value:.2f}" for metric, value in shown.items()))
    return shown


if __name__ == "__main__":
    main()
