"""Training gives the numbers that were recorded, bit for bit: what is meant to change nothing changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "recorded"
RECORDED = json.loads((FOLDER / "nano.json").read_text(encoding="utf-8"))

# One thread, and only instructions that every x86-64 processor with AVX2 has: sums are then computed in the same order
# everywhere.
SAME_SUMS = {
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def test_runs_of_three_steps_give_the_recorded_numbers(tmp_path):
    command = [sys.executable, str(FOLDER / "nano.py"), str(tmp_path), str(tmp_path / "nano.json")]
    root = FOLDER.parents[1]
    subprocess.run(command, cwd=root, env=os.environ | SAME_SUMS | {"PYTHONPATH": str(root)}, check=True)
    made = json.loads((tmp_path / "nano.json").read_text(encoding="utf-8"))
    assert made == RECORDED


def test_the_recorded_runs_learned_something_and_differ():
    last = {name: lines[-1] for name, lines in RECORDED.items()}
    assert all(len(lines) == 3 for lines in RECORDED.values())
    assert all(any(key.endswith("/grad_norm") for key in line) for line in last.values())
    assert len({json.dumps(line, sort_keys=True) for line in last.values()}) == len(last)
