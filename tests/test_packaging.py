"""What is built is what is in the checkout, under the names it is imported by."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import waltz_env

ROOT = Path(__file__).parents[1]
FOLDERS = {"waltz_env": "waltz_env", "agents": "waltz_env/agents", "algorithms": "waltz_env/algorithms"}
BESIDE = ["CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"]


def files(folder: Path) -> dict[str, bytes]:
    """Each file below a folder by its relative path; links are not followed, caches left out."""
    links = {path for path in folder.iterdir() if path.is_symlink()}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and links.isdisjoint(path.parents)
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, so that the checkout gets no build folders."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in BESIDE:
        shutil.copy(ROOT / name, copy)
    for folder in [*FOLDERS, "tests"]:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path) -> Path:
    """A folder with the sdist and the wheel that was built from that sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(checkout / "dist"), str(checkout)]
    subprocess.run(command, check=True, capture_output=True)
    return checkout / "dist"


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel alone is installed in."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def test_the_wheel_holds_every_source_file_and_no_other(checkout: Path, built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{name}": content
        for folder, package in FOLDERS.items()
        for name, content in files(checkout / folder).items()
    }
    assert packed.keys() == expected.keys()
    assert packed == expected


def test_the_sdist_holds_each_source_file_once_where_it_lives(checkout: Path, built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
        packed = {name: member.read() for name, member in members.items() if member is not None}
    generated = {name for name in packed if name in {"PKG-INFO", "setup.cfg"} or ".egg-info/" in name}
    expected = {
        f"{folder}/{name}": content for folder in FOLDERS for name, content in files(checkout / folder).items()
    } | {name: (checkout / name).read_bytes() for name in BESIDE}
    assert packed.keys() - generated == expected.keys()
    assert {name: packed[name] for name in expected} == expected


def test_the_wheel_installs_one_top_level_package_and_the_command(built: Path, installed: Path) -> None:
    dist_info = f"waltz_env-{waltz_env.__version__}.dist-info"
    assert {path.name for path in installed.iterdir()} == {"waltz_env", dist_info, "bin"}
    assert [path.name for path in (installed / "bin").iterdir()] == ["waltz"]
    assert (installed / dist_info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("module", ["waltz_env", "waltz_env.agents", "waltz_env.algorithms"])
def test_the_installed_package_imports_from_any_folder(module: str, installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import {module}; print({module}.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(result.stdout.strip()) == installed / Path(*module.split(".")) / "__init__.py"
