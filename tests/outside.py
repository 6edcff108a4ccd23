"""What a package of somebody else could bring: a judge, an algorithm's settings and a preset, in every form."""

from __future__ import annotations

from collections.abc import Sequence

from tests.games import WordJudge
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.presets import Preset, nano
from waltz_env.types import Judgement, Labels, Prompt

NOT_AN_OBJECT = 3
A_JUDGE = WordJudge()


class EvenJudge:
    """Is satisfied by texts with an even number of characters: by about half of what a random model writes."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        odd = [len(response) % 2 == 1 for response in responses]
        return [
            Judgement(Labels(prompt.harmful and bad, not prompt.harmful and bad), "length")
            for prompt, bad in zip(prompts, odd, strict=True)
        ]


AN_EVEN_JUDGE = EvenJudge()
SETTINGS = GRPOConfig(aggregation="sum")


def make_judge() -> WordJudge:
    return A_JUDGE


def make_settings() -> GRPOConfig:
    return SETTINGS


def make_preset() -> Preset:
    return nano.PRESET


class NeedsArguments:
    """A judge, an algorithm's settings and a preset in one, if only somebody gave it its arguments."""

    def __init__(self, argument: object) -> None:
        self.judge = self.build = argument


class Holder:
    judge = A_JUDGE
    settings = SETTINGS
    preset = nano.PRESET
