"""``waltz serve``: the pair behind an OpenAI-compatible chat interface."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Annotated

import tyro

from waltz_env.agents import TEMPLATES, FollowAdvice, OracleFeedback
from waltz_env.cli.pairs import SCRIPTED, load_pair
from waltz_env.errors import UsageError
from waltz_env.feedback import JSON_SCHEMA
from waltz_env.judges import RuleJudge
from waltz_env.protocols import Agent
from waltz_env.rules import Rules
from waltz_env.server_client import ServerClient
from waltz_env.serving import AsyncAgent, Duet, Limits, Mode, OnFailure
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Kind, Observation, Prompt

REQUIRED = ("fastapi", "openai", "prometheus_client", "uvicorn")


@dataclass(frozen=True)
class Serve:
    """Serves a pair to any OpenAI client.

    Each role is played by a model in this process or, where its URL is given, by an OpenAI-compatible server.
    $OPENAI_API_KEY is sent to such servers.

    Attributes:
        agents: scripted, smollm2, the folder of a run, or the folder or name of any Hugging Face chat model.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        name: of the pair, as clients ask for it.
        api_key: what clients must send; $WALTZ_API_KEY by default, none if that is empty.
        conversation_url: server of the conversation agent, such as http://127.0.0.1:8001/v1.
        conversation_model: its name there.
        feedback_url: server of the feedback agent.
        feedback_model: its name there.
        feedback_schema: ask that server to hold the feedback to its JSON schema.
        mode: adaptive revises what is flagged, always-on revises always, off returns the draft.
        on_failure: without usable feedback, return the draft (fail_open) or a refusal (fail_closed).
        max_rounds: rounds of feedback and revision at most, 0 for none; as the run was trained by default.
        max_new_tokens: of one turn, where the run does not say.
        max_batch: requests to one model in this process that run together, at most.
        temperature: of servers; a model in this process samples at the temperature that it was trained at.
        seed: of sampling.
        timeout: seconds for one request.
        feedback_timeout: seconds that one feedback may take.
        limits: what is taken on.
        log_text: put messages and answers into the log, which otherwise holds no text.
    """

    agents: Annotated[str | None, tyro.conf.Positional] = None
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "waltz"
    api_key: str | None = None
    conversation_url: str | None = None
    conversation_model: str = "conversation"
    feedback_url: str | None = None
    feedback_model: str = "feedback"
    feedback_schema: bool = False
    mode: Mode = "adaptive"
    on_failure: OnFailure = "fail_open"
    max_rounds: int | None = None
    max_new_tokens: int = 512
    max_batch: int = 32
    temperature: float = 1.0
    seed: int = 0
    timeout: float = 60.0
    feedback_timeout: float = 20.0
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    log_text: bool = False

    def run(self) -> int:
        """Serves until it is told to stop; see ``main`` for the exit code."""
        missing = [name for name in REQUIRED if find_spec(name) is None]
        if missing:
            raise UsageError(f"`waltz serve` needs {', '.join(missing)}: pip install 'waltz-env[openai,serve]'")
        from waltz_env.serving.http.app import create_app
        from waltz_env.serving.http.server import serve

        api_key = self.api_key or os.environ.get("WALTZ_API_KEY")
        app = create_app(
            self.duet(),
            model=self.name,
            api_keys=[api_key] if api_key else [],
            limits=self.limits,
            log_text=self.log_text,
        )
        serve(app, host=self.host, port=self.port, drain=self.timeout)
        return 0

    def duet(self) -> Duet:
        """The pair that the settings name.

        Raises:
            UsageError: a role has neither a model nor a server.
        """
        agents, trained_rounds = self._agents()
        rounds = trained_rounds if self.max_rounds is None else self.max_rounds
        return Duet(
            agents,
            mode="off" if rounds == 0 else self.mode,
            on_failure=self.on_failure,
            rules=Rules(max_rounds=rounds),
            timeout=self.timeout,
            feedback_timeout=self.feedback_timeout,
            max_batch=self.max_batch,
        )

    def _agents(self) -> tuple[Mapping[AgentID, Agent | AsyncAgent], int]:
        servers = {
            CONVERSATION: (self.conversation_url, self.conversation_model),
            FEEDBACK: (self.feedback_url, self.feedback_model),
        }
        agents: dict[AgentID, Agent | AsyncAgent] = {}
        rounds = 1
        if self.agents == SCRIPTED:
            agents |= {CONVERSATION: FollowAdvice(1.0, seed=self.seed), FEEDBACK: ScriptedFeedback()}
        elif self.agents is not None:
            pair, rounds = load_pair(self.agents, seed=self.seed, max_new_tokens=self.max_new_tokens)
            agents |= pair
        agents |= {role: self._server(role, url, model) for role, (url, model) in servers.items() if url}
        needed = [CONVERSATION] if self.mode == "off" else [CONVERSATION, FEEDBACK]
        if not all(role in agents for role in needed):
            raise UsageError(
                "Name the pair (`waltz serve RUN`, or scripted to try it out), or a server for each role "
                "(--conversation-url and --feedback-url)."
            )
        return agents, rounds

    def _server(self, role: AgentID, url: str, model: str) -> AsyncAgent:
        from waltz_env.agents.openai_agent import OpenAIAgent

        return OpenAIAgent(
            model,
            TEMPLATES[role],
            server=ServerClient(
                url,
                api_key=os.environ.get("OPENAI_API_KEY") or "none",
                max_concurrent=self.limits.concurrent,
                timeout=self.timeout,
                deadline=self.timeout,
            ),
            temperature=self.temperature,
            max_tokens=self.max_new_tokens,
            json_schema=JSON_SCHEMA if role == FEEDBACK and self.feedback_schema else None,
        )


class ScriptedFeedback:
    """The built-in judge as a feedback agent that takes every prompt for benign: it flags refusals and non-answers."""

    def act(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """One well-formed feedback for each observation."""
        prompts = [
            Prompt(observation["prompt"], Kind.BENIGN, history=observation["history"]) for observation in observations
        ]
        return OracleFeedback(prompts, RuleJudge()).act(observations)
