"""Experiments: a recipe trained and evaluated in a run folder, over seeds, and against other algorithms."""

from typing import TYPE_CHECKING

from waltz_env.lazy import lazy_attributes

if TYPE_CHECKING:
    from waltz_env.experiments.cross_evaluation import cross_play
    from waltz_env.experiments.distillation import DistillConfig, distill
    from waltz_env.experiments.evaluation import EvaluationConfig, evaluate
    from waltz_env.experiments.run import execute
    from waltz_env.experiments.saved_run import load_run, read_recipe
    from waltz_env.experiments.servers import Servers
else:  # they need torch, and results of finished experiments do not
    __getattr__, __dir__ = lazy_attributes(
        __name__,
        on_first_use={
            "EvaluationConfig": "evaluation",
            "DistillConfig": "distillation",
            "Servers": "servers",
            "cross_play": "cross_evaluation",
            "distill": "distillation",
            "evaluate": "evaluation",
            "execute": "run",
            "load_run": "saved_run",
            "read_recipe": "saved_run",
        },
    )

__all__ = [
    "DistillConfig",
    "EvaluationConfig",
    "Servers",
    "cross_play",
    "distill",
    "evaluate",
    "execute",
    "load_run",
    "read_recipe",
]
