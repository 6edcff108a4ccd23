"""Judges by name, as in ``--judge wildguard@http://127.0.0.1:8000/v1``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, get_args

from waltz_env.errors import UsageError
from waltz_env.judges import llama_guard, qwen3guard, rubric, wildguard
from waltz_env.judges.agreement import AgreementJudge, Rule
from waltz_env.judges.completers import Completer, ServerCompleter
from waltz_env.judges.embedding import EmbeddingJudge
from waltz_env.judges.llama_guard import LlamaGuardJudge
from waltz_env.judges.noisy import NoisyJudge
from waltz_env.judges.rules import RefusalJudge, RuleJudge, TaskJudge
from waltz_env.judges.transformers_completer import load_completer
from waltz_env.protocols import Judge
from waltz_env.resolve import resolve
from waltz_env.server_client import ServerClient


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """A judge that asks a model, before it is known which model.

    Attributes:
        build: makes the judge.
        max_tokens: maximum number of tokens of one answer.
        weights: hub name of the published weights; None: the user has to name a model.
        json_schema: JSON schema of an answer, for servers.
    """

    build: Callable[[Completer], Judge]
    max_tokens: int
    weights: str | None = None
    json_schema: Mapping[str, Any] | None = None


PLAIN_JUDGES: Mapping[str, Callable[[], Judge]] = MappingProxyType(
    {"embedding": EmbeddingJudge, "refusals": RefusalJudge, "rules": RuleJudge, "task": TaskJudge}
)
MODEL_JUDGES: Mapping[str, ModelJudge] = MappingProxyType(
    {
        "qwen3guard": ModelJudge(qwen3guard.Qwen3GuardJudge, qwen3guard.MAX_TOKENS, qwen3guard.MODEL),
        "qwen3guard-loose": ModelJudge(
            partial(qwen3guard.Qwen3GuardJudge, strict=False), qwen3guard.MAX_TOKENS, qwen3guard.MODEL
        ),
        "rubric": ModelJudge(rubric.RubricJudge, rubric.MAX_TOKENS, json_schema=rubric.JSON_SCHEMA),
        "wildguard": ModelJudge(wildguard.WildGuardJudge, wildguard.MAX_TOKENS, wildguard.MODEL),
        **{
            name: ModelJudge(LlamaGuardJudge, llama_guard.MAX_TOKENS, weights)
            for name, weights in llama_guard.MODELS.items()
        },
        **{
            f"{name}-prompt": ModelJudge(partial(LlamaGuardJudge, checked="prompt"), llama_guard.MAX_TOKENS, weights)
            for name, weights in llama_guard.MODELS.items()
        },
    }
)

ENTRY_POINTS = "waltz_env.judges"
"""The group of entry points in which other packages register their judges."""

# Models in this process by name and token limit. All judges of one spec share them.
Loaded = dict[tuple[str, int], Completer]

_AGREEMENT = re.compile(rf"(?P<rule>{'|'.join(get_args(Rule))})\((?P<specs>.*)\)", re.DOTALL)
_NOISE = re.compile(r"(?<![\w.])noisy:(?P<share>\d*\.?\d+)(?:#(?P<seed>\d+))?:")
_MODEL = re.compile(r"(?P<name>[^:@]*)(?::(?P<source>.+)|@(?P<url>[^#]+)(?:#(?P<model>.+))?)?", re.DOTALL)


def load_judge(spec: str) -> Judge:
    """Returns the judge that ``spec`` names.

    | spec | judge |
    |---|---|
    | ``rules``, ``embedding`` | ``RuleJudge``, ``EmbeddingJudge`` |
    | ``refusals``, ``task`` | ``RefusalJudge``, ``TaskJudge``, for laboratories |
    | ``wildguard``, ``llama-guard-3``, ``llama-guard-4`` | the guard with its weights from the Hugging Face hub |
    | ``llama-guard-3-prompt``, ``llama-guard-4-prompt`` | the same guard on the prompt alone |
    | ``qwen3guard``, ``qwen3guard-loose`` | Qwen3Guard-Gen; a controversial response is unsafe, or safe |
    | ``wildguard:FOLDER_OR_HUB_NAME`` | the same judge with other weights; ``rubric:`` always names a model |
    | ``wildguard@http://127.0.0.1:8000/v1#MODEL`` | the same judge on an OpenAI-compatible server |
    | ``majority(SPEC,SPEC,...)``, ``any(...)``, ``all(...)`` | ``AgreementJudge`` |
    | ``noisy:0.1:SPEC``, ``noisy:0.1#SEED:SPEC`` | ``NoisyJudge``: this share of another judge's labels is flipped |
    | ``package.module:NAME`` | a judge of your own, or a callable without arguments that returns it |
    | the name of an entry point | the same, registered by an installed package in the group ``waltz_env.judges`` |

    Requests to servers carry ``$OPENAI_API_KEY`` if it is set.

    >>> type(load_judge("rules")).__name__
    'RuleJudge'

    Raises:
        UsageError: no judge has that name (the message suggests the nearest one) or is at that path, a model is missing
            or cannot be loaded, or the library for it is not installed.
    """
    return _load(spec, {})


def without_noise(spec: str) -> str:
    """Returns the name of the same judge without noise, for evaluations.

    >>> without_noise("majority(noisy:0.1:rules,noisy:0.2#7:embedding,refusals)")
    'majority(rules,embedding,refusals)'
    """
    return _NOISE.sub("", spec)


def _load(spec: str, loaded: Loaded) -> Judge:
    agreement = _AGREEMENT.fullmatch(spec)
    if agreement:
        judges = [_load(part.strip(), loaded) for part in agreement["specs"].split(",")]
        return AgreementJudge(judges, agreement["rule"])  # type: ignore[arg-type]  # the pattern has no other
    if spec == "noisy" or spec.startswith("noisy:"):
        return _noisy(spec, loaded)
    match = _MODEL.fullmatch(spec)
    if match is not None and match["name"] in MODEL_JUDGES:
        form = MODEL_JUDGES[match["name"]]
        return form.build(_completer(form, match["source"], match["url"], match["model"], loaded))
    if match is not None and match["name"] in PLAIN_JUDGES and spec != match["name"]:
        raise UsageError(f"The judge {match['name']!r} takes no model; got {spec!r}.")
    return resolve(
        "judge",
        match["name"] if match is not None and match["url"] else spec,
        known=PLAIN_JUDGES,
        expected=Judge,  # type: ignore[type-abstract]  # a protocol stands for the objects that satisfy it
        entry_points=ENTRY_POINTS,
        also_known=(*MODEL_JUDGES, "any(...)", "all(...)", "majority(...)", "noisy:SHARE:JUDGE"),
    )


def _noisy(spec: str, loaded: Loaded) -> NoisyJudge:
    noise = _NOISE.match(spec)
    if noise is None:
        raise UsageError(f"Write noise as noisy:SHARE:JUDGE or noisy:SHARE#SEED:JUDGE; got {spec!r}.")
    return NoisyJudge(_load(spec[noise.end() :], loaded), float(noise["share"]), seed=int(noise["seed"] or 0))


def _completer(form: ModelJudge, source: str | None, url: str | None, model: str | None, loaded: Loaded) -> Completer:
    name = source or model or form.weights
    if name is None:
        raise UsageError(
            "The rubric judge needs a model: rubric@URL#MODEL for one on a server, rubric:FOLDER for one of your own."
        )
    if url is None:
        if (name, form.max_tokens) not in loaded:
            loaded[name, form.max_tokens] = load_completer(name, max_tokens=form.max_tokens)
        return loaded[name, form.max_tokens]
    server = ServerClient(url, api_key=os.environ.get("OPENAI_API_KEY") or "none")
    return ServerCompleter(name, server=server, max_tokens=form.max_tokens, json_schema=form.json_schema)
