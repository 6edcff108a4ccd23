"""``waltz serve``: the pair behind an OpenAI-compatible chat interface."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from waltz_env.agents.engines import TRANSFORMERS, check_engine
from waltz_env.checks import check_integer, check_number, check_settings
from waltz_env.cli.arguments import parse_into
from waltz_env.cli.progress import hide_loading_bars
from waltz_env.errors import UsageError
from waltz_env.experiments.pairs import SCRIPTED, laboratory_note, load_pair
from waltz_env.experiments.servers import Servers
from waltz_env.judges import RefusalJudge
from waltz_env.protocols import Agent
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.scripted import FollowAdvice, OracleFeedback
from waltz_env.serving import AsyncAgent, Duet, Limits, Mode, OnFailure
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Kind, Observation, Prompt


@dataclass(frozen=True, slots=True)
class Serve:
    """Serve a pair to any OpenAI client.

    Each role is played by a model in this process or, if its URL is given, by an OpenAI-compatible server.
    $OPENAI_API_KEY is sent to such servers.

    For example: waltz serve runs/mine --port 8000

    Attributes:
        agents: scripted, smollm2, the folder of a run, or the folder or hub name of a Hugging Face chat model.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        name: model name that clients ask for.
        api_key: key that clients must send; $WALTZ_API_KEY by default, none if that is empty.
        servers: servers that play a role. Clients may set another temperature for drafts and revisions.
        mode: adaptive revises flagged drafts, always-on revises always, off returns the draft unreviewed.
        on_failure: without usable feedback, return a refusal (fail_closed) or the draft, marked (fail_open).
        max_rounds: maximum rounds of feedback and revision, 0 for none; as the run was trained by default.
        max_batch: maximum number of requests that run together on one model in this process.
        seed: sampling seed.
        engine: engine of the models: transformers, vllm (in this process), or running vLLM servers, vllm@URL,URL; of a
            run that a Tinker service trained, tinker or tinker@URL.
        timeout: seconds that a draft or a revision may run.
        feedback_timeout: seconds that one critique may run.
        queue_timeout: seconds that a request may wait for its turns before it is turned away.
        drain: seconds in which requests in progress may finish after SIGTERM or Ctrl-C; by default as long as a request
            may take. A second signal ends the process at once.
        limits: limits on requests.
        cors_origins: origins of web pages that may call the server from a browser; * for all.
        log_text: put messages and answers into the log, which otherwise holds no text.
    """

    agents: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="AGENTS")] = None
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "waltz"
    api_key: str | None = None
    servers: Annotated[Servers, tyro.conf.arg(name="")] = field(default_factory=Servers)
    mode: Mode = "adaptive"
    on_failure: OnFailure = "fail_closed"
    max_rounds: int | None = None
    max_batch: int = 32
    seed: int = 0
    engine: str = TRANSFORMERS
    timeout: float = 60.0
    feedback_timeout: float = 60.0
    queue_timeout: float = 60.0
    drain: float | None = None
    limits: Annotated[Limits, tyro.conf.arg(name="")] = field(default_factory=Limits)
    cors_origins: tuple[str, ...] = ()
    log_text: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work before a model is loaded."""
        check_settings(self)
        check_integer("max_batch", self.max_batch, at_least=1)
        for name in ("timeout", "feedback_timeout", "queue_timeout"):
            check_number(name, getattr(self, name), above=0)
        check_number("drain", self.drain or 0.0, low=0)
        check_integer("max_rounds", self.max_rounds or 0, at_least=0)
        check_engine(self.engine)
        if self.agents in (None, SCRIPTED) and self.engine != TRANSFORMERS:
            raise UsageError("--engine would be ignored: no model is loaded here. Name a run or a model.")

    def run(self) -> int:
        """Serve until told to stop; see ``main`` for the exit code."""
        from waltz_env.serving.http.app import create_app
        from waltz_env.serving.http.server import listen, serve

        api_key = self.api_key or os.environ.get("WALTZ_API_KEY")
        with listen(self.host, self.port) as listening:  # before a model is loaded
            duet = self.duet()
            app = create_app(
                duet,
                model=self.name,
                api_keys=[api_key] if api_key else [],
                limits=self.limits,
                cors_origins=self.cors_origins,
                log_text=self.log_text,
            )
            serve(
                app,
                drain=duet.longest if self.drain is None else self.drain,
                listening=listening,
                about=self.about(duet),
            )
        return 0

    def about(self, duet: Duet) -> dict[str, object]:
        """Return what the first line of the log tells."""
        about: dict[str, object] = {
            "model": self.name,
            "agents": self.agents,
            "conversation_url": self.servers.conversation_url,
            "feedback_url": self.servers.feedback_url,
            "mode": duet.mode,
            "on_failure": duet.on_failure,
            "max_rounds": duet.rules.max_rounds,
        }
        if duet.mode == "off":
            about["warning"] = "No answer is reviewed."
        elif duet.on_failure == "fail_open":
            about["warning"] = "Without usable feedback, the answer is the draft, marked as unreviewed."
        if self.agents is not None:
            about["note"] = laboratory_note(RunFolder(Path(self.agents)))
        return {name: value for name, value in about.items() if value is not None}

    def duet(self) -> Duet:
        """The pair that the settings name.

        Raises:
            UsageError: a role has neither a model nor a server.
        """
        agents, rules = self._agents()
        if self.max_rounds is not None:
            rules = replace(rules, max_rounds=self.max_rounds)
        return Duet(
            agents,
            mode="off" if rules.max_rounds == 0 else self.mode,
            on_failure=self.on_failure,
            rules=rules,
            timeout=self.timeout,
            feedback_timeout=self.feedback_timeout,
            queue_timeout=self.queue_timeout,
            max_batch=self.max_batch,
        )

    def _agents(self) -> tuple[Mapping[AgentID, Agent | AsyncAgent], Rules]:
        agents: dict[AgentID, Agent | AsyncAgent] = {}
        rules = Rules()
        if self.agents == SCRIPTED:
            agents |= {CONVERSATION: FollowAdvice(1.0, seed=self.seed), FEEDBACK: ScriptedFeedback()}
        elif self.agents is not None:
            hide_loading_bars()
            pair, rules = load_pair(
                self.agents, seed=self.seed, max_new_tokens=self.servers.max_new_tokens, engine=self.engine
            )
            agents |= pair
        longest = max(self.timeout, self.feedback_timeout)
        agents |= self.servers.agents(
            timeout=longest, deadline=self.queue_timeout + longest, max_concurrent=self.limits.concurrent
        )
        needed = [CONVERSATION] if self.mode == "off" else [CONVERSATION, FEEDBACK]
        if not all(role in agents for role in needed):
            raise UsageError(
                "Name the pair (`waltz serve RUN`, or scripted to try it out), or a server for each role "
                "(--conversation-url and --feedback-url)."
            )
        return agents, rules


def parse(arguments: Sequence[str]) -> Serve:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Serve, "serve", arguments)


class ScriptedFeedback:
    """The built-in judge as a feedback agent that takes every prompt as benign: it flags refusals and non-answers."""

    def act(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """One well-formed feedback for each observation."""
        prompts = [
            Prompt(observation["prompt"], Kind.BENIGN, history=observation["history"]) for observation in observations
        ]
        return OracleFeedback(prompts, RefusalJudge()).act(observations)
