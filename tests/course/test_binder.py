"""The notebooks as Binder runs them: through `binder/start`, with one thread, in 2 GB of memory.

``python -m pytest tests/test_binder.py -rP`` prints the table of peaks.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Where a pod is killed. What is counted is the resident memory of nbconvert and of the kernel, pages that
# they share twice; nbconvert stands in for the server of JupyterLab, which is about as large.
LIMIT = 2e9


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Binder's pods run Linux")


def run(command: list, limit: float) -> tuple[int, float, str]:
    """Exit status, peak of memory in bytes, and the end of what was said; -1 where it had to be killed.

    A limit of the address space would say nothing: torch maps several times what it uses.
    """
    said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=said,
        stderr=subprocess.STDOUT,
    )
    main, family, peak = psutil.Process(process.pid), [], 0
    try:
        while process.poll() is None:
            time.sleep(0.25)
            size, family = 0, [main]
            with suppress(psutil.Error):
                family += main.children(recursive=True)
            for member in family:
                with suppress(psutil.Error):
                    size += member.memory_info().rss
            peak = max(peak, size)
            if size > limit:
                return -1, peak, f"more than {limit / 1e9:g} GB"
    finally:  # where it was too large, and where the test was stopped
        for member in family:
            with suppress(psutil.Error):
                member.kill()
        process.wait()
    said.seek(0)
    return process.returncode, peak, said.read()[-2000:]


@pytest.fixture(scope="module")
def peaks():
    """Peaks of memory by notebook, printed at the end."""
    found = {}
    yield found
    print(f"\n{'notebook':24}{'peak memory':>12}")
    for name, peak in found.items():
        print(f"{name:24}{peak / 1e9:9.2f} GB")


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_stays_within_the_memory_of_binder(path, peaks, tmp_path):
    command = ["bash", "binder/start", sys.executable, "-m", "jupyter", "nbconvert", path]
    command += ["--to", "notebook", "--execute", "--output-dir", tmp_path]
    status, peaks[path.stem], said = run(
        [*command, "--ExecutePreprocessor.timeout=-1", "--log-level=ERROR"], LIMIT
    )
    assert status == 0, said
    assert 0.2e9 < peaks[path.stem] < LIMIT


def test_what_takes_too_much_is_killed():
    hoard = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = bytes(1) * 10**9'])"
    hoard = hoard.replace("10**9'", "10**9; import time; time.sleep(600)'")
    begun = time.monotonic()
    status, peak, said = run([sys.executable, "-c", hoard], 0.5e9)
    assert (status, said) == (-1, "more than 0.5 GB") and peak > 0.5e9
    assert time.monotonic() - begun < 300


@on_linux
def test_one_thread_for_the_one_core_of_a_pod_and_no_huge_pages():
    code = "import os; print(os.environ['OMP_NUM_THREADS'], open('/proc/self/status').read())"
    status, _, said = run(["bash", "binder/start", sys.executable, "-c", code], LIMIT)
    assert status == 0 and said.startswith("1 ") and "\nTHP_enabled:\t0\n" in said, said
