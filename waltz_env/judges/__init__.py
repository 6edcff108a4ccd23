"""Judges label responses: by rules, by an embedding, or by a model; several of them can be joined or cached."""

from waltz_env.judges.agreement import AgreementJudge
from waltz_env.judges.cached import CachedJudge
from waltz_env.judges.completers import Completer, ServerCompleter
from waltz_env.judges.embedding import EmbeddingJudge
from waltz_env.judges.llama_guard import LlamaGuardJudge
from waltz_env.judges.noisy import NoisyJudge
from waltz_env.judges.qwen3guard import Qwen3GuardJudge
from waltz_env.judges.request_classifier import RequestClassifier
from waltz_env.judges.rubric import RubricJudge
from waltz_env.judges.rules import RefusalJudge, RuleJudge, TaskJudge
from waltz_env.judges.spec import load_judge, without_noise
from waltz_env.judges.transformers_completer import TransformersCompleter, load_completer
from waltz_env.judges.wildguard import WildGuardJudge

__all__ = [
    "AgreementJudge",
    "CachedJudge",
    "Completer",
    "EmbeddingJudge",
    "LlamaGuardJudge",
    "NoisyJudge",
    "Qwen3GuardJudge",
    "RefusalJudge",
    "RequestClassifier",
    "RubricJudge",
    "RuleJudge",
    "ServerCompleter",
    "TaskJudge",
    "TransformersCompleter",
    "WildGuardJudge",
    "load_completer",
    "load_judge",
    "without_noise",
]
