"""A judge by what a user types: ``--judge wildguard@http://127.0.0.1:8000/v1``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args

from waltz_env.errors import UsageError
from waltz_env.judges import llama_guard, rubric, wildguard
from waltz_env.judges.agreement import AgreementJudge, Rule
from waltz_env.judges.completers import Completer, ServerCompleter
from waltz_env.judges.embedding import EmbeddingJudge
from waltz_env.judges.rules import RuleJudge
from waltz_env.protocols import Judge
from waltz_env.resolve import resolve
from waltz_env.server_client import ServerClient

PROMPT_CHECK = "-prompt"
GUARDS = (*llama_guard.MODELS, *(name + PROMPT_CHECK for name in llama_guard.MODELS))
MODEL_JUDGES = ("rubric", "wildguard", *GUARDS)
PLAIN_JUDGES: Mapping[str, Callable[[], Judge]] = MappingProxyType({"embedding": EmbeddingJudge, "rules": RuleJudge})

ENTRY_POINTS = "waltz_env.judges"
"""The group of entry points in which other packages register their judges."""

# Models in this process by name and limit of tokens: judges of one spec share them.
Loaded = dict[tuple[str, int], Completer]

_AGREEMENT = re.compile(rf"(?P<rule>{'|'.join(get_args(Rule))})\((?P<specs>.*)\)", re.DOTALL)
_MODEL = re.compile(r"(?P<name>[^:@]*)(?::(?P<source>.+)|@(?P<url>[^#]+)(?:#(?P<model>.+))?)?", re.DOTALL)


def load_judge(spec: str) -> Judge:
    """The judge that ``spec`` names.

    | spec | judge |
    |---|---|
    | ``rules``, ``embedding`` | ``RuleJudge``, ``EmbeddingJudge`` |
    | ``wildguard``, ``llama-guard-3``, ``llama-guard-4`` | with their weights from the Hugging Face hub |
    | ``llama-guard-3-prompt``, ``llama-guard-4-prompt`` | the same, on the prompt alone |
    | ``wildguard:FOLDER_OR_HUB_NAME`` | with other weights; ``rubric:`` needs some |
    | ``wildguard@http://127.0.0.1:8000/v1#MODEL`` | on an OpenAI-compatible server; ``rubric@`` needs a model |
    | ``majority(SPEC,SPEC,...)``, ``any(...)``, ``all(...)`` | ``AgreementJudge`` |
    | ``package.module:NAME`` | a judge of your own, or a callable without arguments that returns it |
    | the name of an entry point | the same, registered by an installed package in the group ``waltz_env.judges`` |

    Servers are given ``$OPENAI_API_KEY``, if it is set.

    >>> type(load_judge("rules")).__name__
    'RuleJudge'

    Raises:
        UsageError: there is no judge of that name (the nearest one is suggested) or at that path, a model is missing or
            cannot be loaded, or the library for it is not installed.
    """
    return _load(spec, {})


def _load(spec: str, loaded: Loaded) -> Judge:
    agreement = _AGREEMENT.fullmatch(spec)
    if agreement:
        judges = [_load(part.strip(), loaded) for part in agreement["specs"].split(",")]
        return AgreementJudge(judges, agreement["rule"])  # type: ignore[arg-type]  # the pattern has no other
    match = _MODEL.fullmatch(spec)
    if match is not None and match["name"] in MODEL_JUDGES:
        return _model_judge(match["name"], match["source"], match["url"], match["model"], loaded)
    if match is not None and match["name"] in PLAIN_JUDGES and spec != match["name"]:
        raise UsageError(f"The judge {match['name']!r} takes no model; got {spec!r}.")
    return resolve(
        "judge",
        match["name"] if match is not None and match["url"] else spec,
        known=PLAIN_JUDGES,
        expected=Judge,  # type: ignore[type-abstract]  # a protocol stands for the objects that satisfy it
        entry_points=ENTRY_POINTS,
        also_known=(*MODEL_JUDGES, "any(...)", "all(...)", "majority(...)"),
    )


def _model_judge(name: str, source: str | None, url: str | None, model: str | None, loaded: Loaded) -> Judge:
    if name == "wildguard":
        found = _completer(source, url, model, loaded, default=wildguard.MODEL, max_tokens=wildguard.MAX_TOKENS)
        return wildguard.WildGuardJudge(found)
    if name == "rubric":
        return rubric.RubricJudge(
            _completer(source, url, model, loaded, max_tokens=rubric.MAX_TOKENS, json_schema=rubric.JSON_SCHEMA)
        )
    default = llama_guard.MODELS[name.removesuffix(PROMPT_CHECK)]
    found = _completer(source, url, model, loaded, default=default, max_tokens=llama_guard.MAX_TOKENS)
    return llama_guard.LlamaGuardJudge(found, checked="prompt" if name.endswith(PROMPT_CHECK) else "response")


def _completer(
    source: str | None,
    url: str | None,
    model: str | None,
    loaded: Loaded,
    *,
    max_tokens: int,
    default: str | None = None,
    json_schema: Mapping[str, Any] | None = None,
) -> Completer:
    name = source or model or default
    if name is None:
        raise UsageError(
            "The rubric judge needs a model: rubric@URL#MODEL for one on a server, rubric:FOLDER for one of your own."
        )
    if url is None:
        from waltz_env.judges.transformers_completer import load_completer

        if (name, max_tokens) not in loaded:
            loaded[name, max_tokens] = load_completer(name, max_tokens=max_tokens)
        return loaded[name, max_tokens]
    key = os.environ.get("OPENAI_API_KEY") or "none"
    server = ServerClient(url, api_key=key)
    return ServerCompleter(name, server=server, max_tokens=max_tokens, json_schema=json_schema)
