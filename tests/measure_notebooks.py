"""How long each notebook runs and what memory it takes: ``python tests/measure_notebooks.py``.

One after the other, with all threads of the machine, from top to bottom with every exercise open. Writes
data/runs/notebooks.json, of which the README's table is made. Names of notebooks measure those anew.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "data" / "runs" / "notebooks.json"


def resident(process: psutil.Process) -> int:
    """Memory of a process and of all that it started, in bytes; pages that they share count twice."""
    size = 0
    with suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                size += member.memory_info().rss
    return size


def measure(path: Path) -> dict:
    """Seconds of the whole run, kernel's start included, and the peak of memory in bytes.

    nbconvert stands in for the server of JupyterLab, which is about as large.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jupyter", "nbconvert", path, "--to", "notebook"]
        command += ["--execute", "--output-dir", folder, "--ExecutePreprocessor.timeout=-1"]
        began, peak = time.monotonic(), 0
        with subprocess.Popen([*command, "--log-level=ERROR"], cwd=ROOT) as process:
            while process.poll() is None:
                peak = max(peak, resident(psutil.Process(process.pid)))
                time.sleep(0.25)
        if process.returncode:
            raise SystemExit(f"{path.name} does not run")
        return {"seconds": round(time.monotonic() - began, 1), "peak": peak}


def table(record: dict) -> str:
    """The record as a Markdown table, with what the notebooks say of themselves.

    The cell for Colab is not counted.
    """
    rows = [
        "| notebook | reader | machine | cells | exercises | peak memory |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, measured in sorted(record.items()):
        text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]]
        minutes = re.search(r"^\| Time \|.*?(\d+ minutes)", cells[0], re.MULTILINE)[1]
        exercises = sum(len(re.findall(r"^### Exercise \d", cell, re.MULTILINE)) for cell in cells)
        rows.append(
            f"| {name} | {minutes} | {measured['seconds']:.0f} s | {len(cells) - 1} | {exercises} "
            f"| {measured['peak'] / 1e9:.1f} GB |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            record[path.stem] = measure(path)
            RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table(record))
