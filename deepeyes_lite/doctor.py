"""One line per requirement: ``[ok]``, or ``[fail]`` with the remedy.

Runs on a broken installation, too: that is when it is needed. So nothing heavy is imported at the
top, and no requirement is taken for granted by the check of another.
"""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from deepeyes_lite import DATA

LEAST_PYTHON = (3, 11)
LEAST_MEMORY_GB = 4
LEAST_DISK_GB = 2
LEAST_CORES = 2


@dataclass(frozen=True)
class Check:
    """One requirement.

    Attributes:
        ok: whether it is met.
        text: what was looked at and what was found.
        remedy: what to do if it is not met.
    """

    ok: bool
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        """
        >>> print(Check(False, "free disk 0.4 GB", "make room for 2 GB"))
        [fail] free disk 0.4 GB: make room for 2 GB
        """
        return f"[ok]   {self.text}" if self.ok else f"[fail] {self.text}: {self.remedy}"


def precision() -> tuple[str, str]:
    """The precision in which this machine trains a model of the hub, and the reason.

    On a CPU it is fp32: bf16 pays only where the CPU multiplies it in hardware. With AMX it ran at
    350 GFLOP/s against 140 in fp32, on an AVX2 machine at 1 to 3 against 150.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", torch.cuda.get_device_name()
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return (
            "bf16",
            f"{torch.cuda.get_device_name()}, which emulates it: half the memory, but slow",
        )
    if torch.cuda.is_available():
        return "fp32", f"{torch.cuda.get_device_name()} has no bf16"
    return "fp32", f"CPU with {torch.backends.cpu.get_cpu_capability()}"


def machine() -> str:
    """The device, and the versions of the packages that decide what a run finds, in one line."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"CPU ({platform.machine()})"
    packages = ("torch", "transformers", "trl", "peft")
    return ", ".join([device, *(f"{name} {metadata.version(name)}" for name in packages)])


def check_python(version: tuple[int, ...] = sys.version_info) -> Check:
    wanted = ".".join(map(str, LEAST_PYTHON))
    return Check(
        tuple(version[:2]) >= LEAST_PYTHON,
        f"Python {'.'.join(map(str, version[:3]))}",
        f"install Python {wanted} or newer and make the environment anew",
    )


def check_pins() -> list[Check]:
    """Each package that deepeyes-lite needs, against what is installed; those of extras are left out."""
    try:
        from packaging.requirements import Requirement

        requirements = map(Requirement, metadata.requires("deepeyes-lite") or [])
    except metadata.PackageNotFoundError:
        return [Check(False, "deepeyes-lite is not installed", "run `pip install -e .` beside it")]
    except ImportError:
        return [Check(False, "packaging is not installed", "run `pip install packaging`")]
    checks = []
    for wanted in requirements:
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        remedy = f"run `pip install '{wanted.name}{wanted.specifier}'`"
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            checks.append(Check(False, f"{wanted.name} is not installed", remedy))
            continue
        ok = wanted.specifier.contains(installed, prereleases=True)
        text = f"{wanted.name} {installed}"
        checks.append(
            Check(ok, text if ok else f"{text}, but {wanted.specifier} is wanted", remedy)
        )
    return checks


def check_torch() -> Check:
    try:
        import torch
    except Exception as error:  # a broken build raises ImportError, OSError, RuntimeError …
        # The first line says which library is missing; the rest is a page long.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Check(
            False,
            f"torch cannot be imported ({reason})",
            "run `pip install --force-reinstall torch`",
        )
    name, reason = precision()
    return Check(True, f"torch {torch.__version__} runs; training is in {name} ({reason})")


def check_cores() -> Check:
    # Of the machine's cores a container or a batch system may have given us a few.
    mine = getattr(os, "sched_getaffinity", None)
    cores = len(mine(0)) if mine else os.cpu_count() or 1
    return Check(
        cores >= LEAST_CORES,
        f"CPU cores {cores}",
        f"use a machine with {LEAST_CORES}; with one, everything takes about twice as long",
    )


def _container_memory(cgroup: Path) -> float:
    """Bytes that the container may still use; infinite outside of one (cgroup v2)."""
    try:
        limit = int((cgroup / "memory.max").read_text(encoding="utf-8"))
        return limit - int((cgroup / "memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such file, or "max"
        return float("inf")


def check_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> Check:
    try:
        import psutil
    except ImportError:
        return Check(False, "free memory unknown", "run `pip install psutil`")
    free = min(psutil.virtual_memory().available, _container_memory(cgroup)) / 1e9
    return Check(
        free >= LEAST_MEMORY_GB,
        f"free memory {free:.1f} GB",
        f"close other programs until {LEAST_MEMORY_GB} GB are free, or training may be killed",
    )


def check_disk(folder: Path = DATA, least: float = LEAST_DISK_GB) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    return Check(
        free >= least,
        f"free disk {free:.1f} GB",
        f"make room for {least:.3g} GB on the disk of {folder}",
    )


def check_model(folder: Path = DATA / "tiny-eyes") -> Check:
    needed = ("model.safetensors", "config.json", "tokenizer.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    return Check(
        not missing,
        f"tiny-eyes in {folder}" + (f" lacks {', '.join(missing)}" if missing else ""),
        "install deepeyes-lite again, in the repository `git checkout data/tiny-eyes`, or make it with "
        f"`python -m deepeyes_lite pretrain --out {folder}` (hours)",
    )


def check_widgets() -> Check:
    install = "`pip install 'deepeyes-lite[notebooks]'`"
    if find_spec("jupyterlab") is None:  # commands and scripts do without
        return Check(True, f"no JupyterLab; to open the notebooks: {install}")
    missing = [name for name in ("ipywidgets", "jupyterlab_widgets") if find_spec(name) is None]
    return Check(
        not missing,
        f"ipywidgets in JupyterLab{': no ' + ', '.join(missing) if missing else ''}",
        f"run {install} and start JupyterLab again",
    )


def checks() -> list[Check]:
    """All requirements, in the order in which to mend them."""
    return [
        check_python(),
        *check_pins(),
        check_torch(),
        check_cores(),
        check_memory(),
        check_disk(),
        check_model(),
        check_widgets(),
    ]


def main() -> int:
    """Print one line per requirement.

    Returns:
        Exit status: 1 if a requirement is not met, else 0.
    """
    results = checks()
    for check in results:
        print(check)
    failed = sum(not check.ok for check in results)
    print(f"{failed} of {len(results)} to mend" if failed else "everything is in place")
    return 1 if failed else 0
