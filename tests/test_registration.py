import subprocess
import sys
from collections.abc import Iterator

import pettingzoo
import pytest

import waltz_env
from waltz_env.aec import WaltzSafetyAECEnv
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import UsageError


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Takes back what a test registers."""
    registries = (pettingzoo.parallel_registry, pettingzoo.aec_registry)
    before = [dict(registry) for registry in registries]
    yield
    for registry, specs in zip(registries, before, strict=True):
        registry.clear()
        registry.update(specs)


@pytest.mark.parametrize("id", ["WaltzSafety-v0", "waltz_env/WaltzSafety-v0", "WaltzSafety", "WaltzSafety_v0"])
def test_an_environment_is_made_by_its_name(id: str) -> None:
    assert isinstance(waltz_env.make(id), WaltzSafetyEnv)
    assert isinstance(waltz_env.make_aec(id), WaltzSafetyAECEnv)
    assert waltz_env.spec(id).id == "waltz_env/WaltzSafety-v0"


def test_pettingzoo_makes_the_same_environments() -> None:
    parallel = pettingzoo.make("parallel", "waltz_env/WaltzSafety-v0", max_rounds=3)
    assert isinstance(parallel, WaltzSafetyEnv)
    assert parallel.max_rounds == 3
    assert isinstance(pettingzoo.make("aec", "waltz_env/WaltzSafety-v0"), WaltzSafetyAECEnv)


def test_settings_are_passed_on() -> None:
    env = waltz_env.make("WaltzSafety-v0", max_rounds=2, weights="B")
    assert isinstance(env, WaltzSafetyEnv)
    assert (env.max_rounds, env.weights) == (2, waltz_env.SETUPS["B"])


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("WaltzSaftey-v0", r"Unknown environment 'WaltzSaftey-v0'\. Did you mean 'WaltzSafety-v0'\?"),
        ("WaltzSafety-v9", r"Unknown environment 'WaltzSafety-v9'\. Did you mean 'WaltzSafety-v0'\?"),
        ("waltz_env/WaltzSafely-v0", r"Did you mean 'WaltzSafety-v0'\?"),
        ("elsewhere/WaltzSafety-v0", r"Unknown environment 'elsewhere/WaltzSafety-v0'\. Did you mean 'WaltzSafety-v0'"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(id: str, message: str) -> None:
    for call in (waltz_env.make, waltz_env.make_aec, waltz_env.spec):
        with pytest.raises(UsageError, match=message):
            call(id)


@pytest.mark.usefixtures("clean_registry")
def test_settings_can_be_given_a_name() -> None:
    waltz_env.register("WaltzSafetyThreeRounds-v0", {"max_rounds": 3})
    env = waltz_env.make("WaltzSafetyThreeRounds-v0", weights="B")
    assert isinstance(env, WaltzSafetyEnv)
    assert (env.max_rounds, env.weights) == (3, waltz_env.SETUPS["B"])
    assert isinstance(pettingzoo.make("aec", "waltz_env/WaltzSafetyThreeRounds-v0"), WaltzSafetyAECEnv)


class OwnEnv(WaltzSafetyEnv):
    pass


@pytest.mark.usefixtures("clean_registry")
def test_an_environment_of_one_s_own_is_registered_in_its_own_namespace() -> None:
    waltz_env.register("mylab/Own-v1", parallel=f"{__name__}:OwnEnv")
    assert type(waltz_env.make("mylab/Own")).__name__ == "OwnEnv"


def test_the_names_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    waltz_env.pprint_registry()
    assert capsys.readouterr().out == "WaltzSafety-v0\nWaltzSafetyChoice-v0\n"


def test_importing_the_package_registers_it_and_loads_no_torch() -> None:
    code = (
        "import sys, pettingzoo, waltz_env; "
        "pettingzoo.make('parallel', 'waltz_env/WaltzSafety-v0').reset(); "
        "assert not {'torch', 'transformers', 'tyro'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
