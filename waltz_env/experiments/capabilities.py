"""General ability of the conversation agent before and after training, by EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from waltz_env.agents import LanguageModelPolicy
from waltz_env.errors import UsageError
from waltz_env.extras import install_command

Scores = dict[str, dict[str, float]]


def capabilities(policy: LanguageModelPolicy, tasks: Sequence[str], *, limit: int | None = None) -> dict[str, Scores]:
    """Scores of the merged model and, if an adapter was trained, of its base without the adapter.

    Args:
        policy: policy of the conversation agent.
        tasks: names of tasks of the harness, or ``FOLDER/NAME.yaml`` for a task NAME of your own.
        limit: largest number of questions per task; None for all.

    Returns:
        ``{"base": ..., "trained": ...}``, each with metrics by task; there is no ``base`` if all weights were trained.

    Raises:
        UsageError: the harness is not installed or does not know a task.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--capabilities needs lm-evaluation-harness. Install it: {install_command('capabilities')}"
        ) from error
    own = [Path(task) for task in tasks if task.endswith(".yaml")]
    names = [Path(task).stem if task.endswith(".yaml") else task for task in tasks]
    manager = TaskManager(include_path=[str(path.parent) for path in own] or None)
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise UsageError(
            f"lm-evaluation-harness knows no task {', '.join(unknown)}. `lm-eval ls tasks` lists them; a task of your "
            "own is named by its file, FOLDER/NAME.yaml."
        )
    scores = {}
    variants = {"trained": True} if policy.rank is None else {"base": False, "trained": True}
    for name, adapter in variants.items():
        with policy.sampling_model(adapter=adapter) as model:
            results = simple_evaluate(
                HFLM(pretrained=model, tokenizer=policy.tokenizer, device=str(policy.device)),
                tasks=names,
                limit=limit,
                task_manager=manager,
                apply_chat_template=True,
                bootstrap_iters=0,
            )
        assert results is not None  # only ranks other than the first get None
        scores[name] = {task: _numbers(metrics) for task, metrics in results["results"].items()}
    return scores


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """``{"acc": 0.5}`` from the harness's ``{"alias": ..., "acc,none": 0.5, "acc_stderr,none": "N/A"}``."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and "_stderr" not in name
    }
