"""MAPPO: PPO whose critic sees the state of the game, while each policy sees its own observation (arXiv:2103.01955).

1. As published: centralized training, decentralized execution. V reads the agent's own observation and, beside it, what
   the global state adds, without repeating what is in both: the paper's agent-specific state with pruned features (sec.
   5.2). When the game is played, the critic is not used. The rest is ``ppo``.
2. The state adds the numbers of ``protocols.STATE``: the flags of the critique that asked for a revision, of which the
   conversation agent saw only the advice; the judge's labels of the latest response and whether the prompt is harmful,
   which no agent sees and training knows; the turn. None of them depends on the action that is valued, so the baseline
   leaves the gradient unbiased. The critique's reasoning, a text, is left out.
3. Different: one critic per policy. Published, all agents share one actor and one critic; the two roles here differ in
   everything, and a policy that plays both (see ``training.learners``) has one critic, as published.
4. Different: no PopArt normalization of values: returns lie between -1 and 1 as they are. Least squares instead of
   Huber's loss, which differ where errors are large.
5. Different: each agent keeps its own reward; published is one reward for the team.
"""

from __future__ import annotations

from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.protocols import STATE

MAPPO = PPOConfig(state_size=len(STATE))
"""PPO with a centralized critic."""
