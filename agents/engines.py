"""What generates for agents, by name: the models in this process, vLLM, or a service that also trains them.

| name | who generates |
|---|---|
| ``transformers`` | the model itself |
| ``vllm`` | vLLM in this process, or in each process of a sharded run (``VLLMEngine``) |
| ``vllm@URL,URL`` | running vLLM servers, each with a copy of the base model (``VLLMServers``) |
| ``tinker`` | the hosted Tinker service, which holds and trains the weights, too (``TinkerPolicy``) |
| ``tinker@URL`` | another service with the Tinker API |
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from waltz_env.errors import UsageError, unknown_name
from waltz_env.extras import install_command
from waltz_env.protocols import Agent
from waltz_env.types import AgentID

TRANSFORMERS, VLLM, TINKER = "transformers", "vllm", "tinker"
NEEDS_VLLM = "The engine vllm needs vLLM: `pip install vllm` on a machine with a GPU. On a CPU see docs/performance.md."
_PROMPT_TOKENS = 4096  # longest prompt, where an agent allows all that a long context leaves


def server_urls(name: str) -> tuple[str, ...]:
    """The addresses of vLLM servers in the name of an engine; none if it is something else.

    >>> server_urls("vllm@http://127.0.0.1:8000,http://127.0.0.1:8002/v1")
    ('http://127.0.0.1:8000', 'http://127.0.0.1:8002')

    Raises:
        UsageError: there is no engine of that name, or an address is malformed or named twice.
    """
    kind, at, places = name.partition("@")
    if name in (TRANSFORMERS, VLLM) or kind == TINKER:
        service_url(name)
        return ()
    if kind != VLLM or not at:
        raise unknown_name("engine", name, [TRANSFORMERS, VLLM, f"{VLLM}@URL,URL", TINKER, f"{TINKER}@URL"])
    urls = tuple(place.strip().rstrip("/").removesuffix("/v1") for place in places.split(","))
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or urls.count(url) > 1:
            raise UsageError(
                f"The addresses of vLLM servers are different URLs such as http://127.0.0.1:8000, with commas between "
                f"them; got {places!r}."
            )
    return urls


def trains_elsewhere(name: str) -> bool:
    """Whether the engine of that name is a service that holds and trains the weights."""
    return name.partition("@")[0] == TINKER


def service_url(name: str) -> str | None:
    """The address in the name of such an engine; None if it has none.

    >>> service_url("tinker@http://127.0.0.1:8000/")
    'http://127.0.0.1:8000'

    Raises:
        UsageError: the address is malformed.
    """
    kind, at, place = name.partition("@")
    if kind != TINKER or not at:
        return None
    parts = urlsplit(place)
    if parts.scheme not in ("http", "https") or not parts.hostname or "," in place or parts.query:
        raise UsageError(f"The address of a Tinker service is one URL such as http://127.0.0.1:8000; got {place!r}.")
    return place.rstrip("/")


def check_engine(name: str, *, processes: int = 1, sharded: bool = False) -> None:
    """Check that there is such an engine here, before a model is loaded.

    Args:
        name: name of the engine.
        processes: number of processes that train or evaluate together.
        sharded: whether they split the weights among them.

    Raises:
        UsageError: there is no such engine, what it needs is not installed, or several processes would share one device
            or one client of a service.
    """
    server_urls(name)
    if trains_elsewhere(name) and find_spec("tinker") is None:
        raise UsageError(f"The engine {name} needs the package tinker. Install: {install_command('tinker')}")
    if trains_elsewhere(name) and processes > 1:
        raise UsageError(f"The engine {name} works in one process: the service has all the devices.")
    if name == VLLM and find_spec("vllm") is None:
        raise UsageError(NEEDS_VLLM)
    if name == VLLM and processes > 1 and not sharded:
        raise UsageError(
            "The engine vllm works in one process, or in each of several that split the weights (--shard). For others "
            "use vLLM servers: vllm@URL,URL."
        )


def on_engine(agents: Mapping[AgentID, Agent], name: str) -> Mapping[AgentID, Agent]:
    """Agents that act as these do, with the same policies, and generate with the engine called ``name``.

    Args:
        agents: agents of the roles.
        name: name of the engine; ``transformers`` returns the agents as they are, and so does a service that trains if
            their weights are there.

    Raises:
        UsageError: an agent is not a ``TransformersAgent``, or its weights are not on the service, the roles have
            different models, or the engine cannot be had or cannot take these policies.
        SyncError: the engine computes something else with the base model than the trainer.
    """
    if name == TRANSFORMERS:
        return agents
    if trains_elsewhere(name):
        if not all(_is_on_service(agent) for agent in agents.values()):
            raise UsageError(
                f"The engine {name} holds and trains the weights, and these agents have theirs in this process. Train "
                f"a pair there: waltz train --model NAME --engine {name}"
            )
        return agents
    from waltz_env.agents.transformers_agent import TransformersAgent
    from waltz_env.agents.vllm_agent import VLLMAgent
    from waltz_env.agents.vllm_engine import VLLMEngine
    from waltz_env.agents.vllm_servers import VLLMServers

    moved: dict[AgentID, TransformersAgent] = {}
    for role, agent in agents.items():
        if not isinstance(agent, TransformersAgent):
            raise UsageError(
                f"The engine {name} generates for agents with a model in this process; {role} is a "
                f"{type(agent).__name__}. Use the engine {TRANSFORMERS}, which leaves agents as they are."
            )
        moved[role] = agent
    policies = list({id(agent.policy): agent.policy for agent in moved.values()}.values())
    urls = server_urls(name)
    kinds = {str(policy.model.config.to_diff_dict() | {"_name_or_path": None}) for policy in policies}
    if len(kinds) > 1 or (urls and len({id(policy.model) for policy in policies}) > 1):
        raise UsageError(
            f"The engine {name} holds one base model, and these roles have models of their own. Use the engine "
            f"{TRANSFORMERS}, or one base for both."
        )
    engine: VLLMEngine | VLLMServers
    if urls:
        engine = VLLMServers(policies, urls)
    else:
        first = next(iter(moved.values()))
        engine = VLLMEngine(
            policies,
            dtype=first.sampling_dtype or first.policy.model.dtype,
            max_model_len=max(min(a.encoder.max_tokens, _PROMPT_TOKENS) + a.max_new_tokens for a in moved.values()),
            max_num_seqs=max(agent.batch_size for agent in moved.values()),
        )
    return {
        role: VLLMAgent(
            engine,
            agent.policy,
            template=agent.template,
            max_new_tokens=agent.max_new_tokens,
            temperature=agent.temperature,
            seed=agent.seed,
            max_prompt_tokens=agent.encoder.max_tokens,
            thoughts_end=agent.thoughts_end,
        )
        for role, agent in moved.items()
    }


def _is_on_service(agent: Agent) -> bool:
    from waltz_env.agents.tinker_agent import TinkerAgent

    return isinstance(agent, TinkerAgent)


def close_engines(agents: Mapping[AgentID, Agent]) -> None:
    """Free what the engines of these agents hold; the agents cannot act after that."""
    from waltz_env.agents.vllm_agent import VLLMAgent

    for agent in agents.values():
        if isinstance(agent, VLLMAgent):
            agent.engine.close()
