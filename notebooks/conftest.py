"""How `make test` runs the notebooks: kernels start as on Binder, and have to stay within its memory."""

import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from ipykernel.kernelspec import get_kernel_dict

START = Path(__file__).resolve().parents[1] / "binder" / "start"
# A pod of Binder is killed at 2 GB, and the server of JupyterLab takes about 0.2 of them.
LIMIT = 1.8e9  # bytes of a kernel
LINUX = sys.platform == "linux"  # as Binder's pods; elsewhere a kernel starts as it is


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """Start the kernel through `binder/start`: one thread, no huge pages."""
    kernel = get_kernel_dict()
    kernel["argv"] = ["bash", str(START), *kernel["argv"]]
    if not LINUX:
        return (yield)
    with patch("ipykernel.kernelspec.get_kernel_dict", lambda: kernel):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail the cell that takes too much memory; `-rP` shows the peak after each cell."""
    result = yield
    kernel = getattr(item.parent, "kernel", None)  # none in a doctest
    if LINUX and kernel:
        pid = kernel.km.provisioner.pid
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])  # the most that was resident
        item.add_report_section("call", "memory", f"{peak / 1e9:.2f} GB so far")
        assert peak < LIMIT, f"the kernel took {peak / 1e9:.1f} GB, more than {LIMIT / 1e9:g} GB"
    return result
