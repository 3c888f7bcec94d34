"""How long each notebook runs and what memory it takes: ``python tests/measure_notebooks.py``.

One after the other, with all threads of the machine, from top to bottom with every exercise open. Writes
data/runs/notebooks.json, of which the README's table is made. Names of notebooks measure those anew.
"""

import json
import math
import re
import sys
import tempfile
import time
from pathlib import Path

from test_binder import run

from deepeyes_lite.grading.exercises import exercises

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "data" / "runs" / "notebooks.json"


def measure(path: Path) -> dict:
    """Seconds of the whole run, kernel's start included, and the peak of memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jupyter", "nbconvert", path, "--to", "notebook"]
        command += ["--execute", "--output-dir", folder, "--ExecutePreprocessor.timeout=-1"]
        began = time.monotonic()
        status, peak, said = run([*command, "--log-level=ERROR"], math.inf)
        if status:
            raise SystemExit(f"{path.name} does not run: {said}")
        return {"seconds": round(time.monotonic() - began, 1), "peak": peak}


def table(record: dict) -> str:
    """The record as a Markdown table, with what the notebooks say of themselves."""
    lines = [
        "| notebook | reader | machine | cells | exercises | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, found in sorted(record.items()):
        path = ROOT / "notebooks" / f"{name}.ipynb"
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        reader = re.search(r"^\| Time \| *(.*?) *\|", "".join(cells[0]["source"]), re.MULTILINE)[1]
        minutes = re.search(r"\d+ minutes", reader)[0]
        lines.append(
            f"| {name} | {minutes} | {found['seconds']:.0f} s | {len(cells)} | {len(exercises(path))} "
            f"| {found['peak'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            record[path.stem] = measure(path)
            RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table(record))
