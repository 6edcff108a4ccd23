"""What a package of somebody else could bring: a judge, an algorithm's settings and a preset, in every form."""

from __future__ import annotations

from tests.games import WordJudge
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.presets import Preset, nano

NOT_AN_OBJECT = 3
A_JUDGE = WordJudge()
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
