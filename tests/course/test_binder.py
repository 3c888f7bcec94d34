"""nbval runs the notebooks once; `notebooks/conftest.py` starts kernels as Binder does, and watches them."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

COURSE = Path(__file__).parents[2] / "notebooks"
THREADS = "import os; assert os.environ['OMP_NUM_THREADS'] == '1'"
PAGES = r"assert '\nTHP_enabled:\t0\n' in open('/proc/self/status').read()"
HOARD = "x = 'x' * 400_000_000; del x"


@pytest.mark.skipif(sys.platform != "linux", reason="Binder's pods run Linux")
def test_kernels_have_one_thread_and_no_huge_pages_and_a_hoarder_is_caught(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in (THREADS, PAGES, HOARD)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "cells.ipynb")
    code = f"""import pytest, sys
sys.path.insert(0, {str(COURSE)!r})
import conftest
conftest.LIMIT = 0.4e9
pytest.main(["-rP", "--nbval-lax", "--nbval-current-env", "cells.ipynb"], plugins=[conftest])"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "1 failed, 2 passed" in result.stdout, result.stdout
    assert "GB so far" in result.stdout and "GB, more than 0.4 GB" in result.stdout
