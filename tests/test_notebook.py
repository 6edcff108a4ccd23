"""The notebook runs in a real kernel, shortened by the one variable that its reader sees."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "waltz_in_a_notebook.ipynb"


@pytest.fixture
def notebook() -> Any:
    """The notebook as it is kept."""
    import nbformat

    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_plays_trains_and_shows_games_and_curves(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    (share,) = [cell for cell in notebook.cells if cell.source == "SHARE = 1.0"]
    share.source = "SHARE = 0.02"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    assert "feedback_0 {'conversation_0': 0.0, 'feedback_0': 0.35}" in printed
    assert "stage-2 2" in printed
    assert "after  {'asr':" in printed
    assert "-- feedback 0 |" in printed
    images = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert [base64.b64decode(image)[:4] for image in images] == [b"\x89PNG"]


def test_the_notebook_is_kept_without_outputs(notebook: Any) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
