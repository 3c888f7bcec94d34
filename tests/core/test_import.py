"""`import deepeyes_lite` costs nothing: notebooks and the command line start with it."""

import subprocess
import sys

CODE = """
import sys, time
start = time.perf_counter()
import deepeyes_lite
seconds = time.perf_counter() - start
heavy = {"torch", "transformers", "trl", "datasets", "PIL", "numpy"} & set(sys.modules)
print(seconds, *heavy)
"""


def test_import_is_fast_and_light():
    # The least of three: another program on the machine slows one start, not all.
    seconds = []
    for _ in range(3):
        result = subprocess.run(
            [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60
        )
        first, *heavy = result.stdout.split()
        assert heavy == []
        seconds.append(float(first))
    assert min(seconds) < 0.3
