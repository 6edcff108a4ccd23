"""MAPPO: PPO whose critic sees the state of the game, while each policy sees its own observation (arXiv:2103.01955).

1. As published: centralised training, decentralised execution. V reads the agent's own observation and, beside it, what
   the global state adds, without repeating what is in both: the paper's agent-specific state with pruned features (sec.
   5.2). At play the critic is not there. The rest is ``ppo``.
2. What the state adds here are the numbers of ``protocols.STATE``: the flags of the critique that asked for a revision,
   of which the conversation agent saw the advice alone; the judge's verdict on the latest response and whether the
   prompt is harmful, which no agent sees and training knows; the turn. None of them depends on the action that is
   valued, so the baseline leaves the gradient unbiased. The critique's reasoning, a text, is left out.
3. Different: one critic a policy. Published, all agents share one actor and one critic; the two roles here differ in
   everything, and a policy that plays both (see ``shared_policy``) has one critic, as published.
4. Different: no normalisation of values by PopArt: returns lie between -1 and 1 as they are. Least squares for Huber's
   loss, which differ where errors are large.
5. Different: each agent keeps its own reward; published is one reward for the team.
"""

from __future__ import annotations

from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.protocols import STATE

MAPPO = PPOConfig(state_size=len(STATE))
"""PPO with a centralised critic."""
