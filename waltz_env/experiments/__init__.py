"""Experiments: a recipe trained and evaluated in a run folder, over seeds, and against other algorithms."""

from waltz_env.experiments.evaluation import EvaluationConfig, evaluate
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import load_run, read_recipe

__all__ = ["EvaluationConfig", "evaluate", "execute", "load_run", "read_recipe"]
