"""The game for the command line of verifiers, which finds an environment by the name of a module of its own.

PYTHONPATH=examples vf-eval waltz-verifiers --model MODEL --client.base-url http://127.0.0.1:8000/v1 --no-push
"""

from waltz_env.interop.verifiers import WaltzEnv, WaltzHarness, WaltzTaskset

__all__ = ["WaltzEnv", "WaltzHarness", "WaltzTaskset"]
