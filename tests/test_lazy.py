import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import waltz_env.agents
import waltz_env.serving

PACKAGE = """
from waltz_env.lazy import lazy_attributes

here = 1
__getattr__, __dir__ = lazy_attributes(
    __name__, on_first_use={"Late": "late"}, renamed={"Old": "shop.late.Late", "Older": "shop.Late"}
)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with one lazy name and two old ones."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "shop" / "late.py").write_text("class Late: ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shop  # type: ignore[import-not-found]

    yield shop
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_a_lazy_name_is_imported_on_first_use(shop: ModuleType) -> None:
    assert "shop.late" not in sys.modules
    assert shop.Late is sys.modules["shop.late"].Late


def test_dir_lists_lazy_names_and_plain_ones_and_no_old_ones(shop: ModuleType) -> None:
    assert {"here", "Late"} <= set(dir(shop))
    assert not {"Old", "Older"} & set(dir(shop))


@pytest.mark.parametrize(("old", "new"), [("Old", "shop.late.Late"), ("Older", "shop.Late")])
def test_an_old_name_works_and_warns_at_the_line_that_uses_it(shop: ModuleType, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"^shop.{old} is deprecated: use {new}.$") as warned:
        assert getattr(shop, old) is shop.Late
    assert warned[0].filename == __file__


def test_importing_an_old_name_warns_at_the_import(shop: ModuleType) -> None:
    with pytest.warns(DeprecationWarning, match="use shop.late.Late") as warned:
        from shop import Old  # noqa: F401
    assert warned[-1].filename == __file__


def test_an_unknown_name_is_an_attribute_error(shop: ModuleType) -> None:
    with pytest.raises(AttributeError, match="^module 'shop' has no attribute 'Lat'$"):
        _ = shop.Lat


@pytest.mark.parametrize("package", [waltz_env.agents, waltz_env.serving])
def test_every_public_name_of_a_package_can_be_had_and_is_listed(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("waltz_env.agents.Policy", "waltz_env.agents.LanguageModelPolicy"),
        ("waltz_env.algorithms.TrainConfig", "waltz_env.algorithms.training.loop.LoopConfig"),
        ("waltz_env.choice.Policy", "waltz_env.choice.Strategy"),
        ("waltz_env.env.WaltzSafetyAECEnv", "waltz_env.aec.WaltzSafetyAECEnv"),
        ("waltz_env.presets.nano.build", "waltz_env.presets.nano.build_model"),
        ("waltz_env.presets.smollm2.build", "waltz_env.presets.smollm2.build_workbench"),
    ],
)
def test_names_of_version_0_1_still_work_and_tell_the_new_ones(old: str, new: str) -> None:
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{old} is deprecated: use {new}"):
        found = getattr(importlib.import_module(module), name)
    assert found is pkgutil.resolve_name(new)
