"""The set-up files agree with pyproject.toml, the one list of pins; make does what it says."""

import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deepeyes_lite.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
PINS = dict(line.split("==") for line in PROJECT["dependencies"])
EXTRAS = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]


def pins_in(text: str) -> list[tuple[str, str]]:
    """All ``name==version`` in a text, in order."""
    return re.findall(r"([A-Za-z][\w.-]*)==([\w.+]*\w)", text)


def test_pins_are_exact_and_the_same_everywhere():
    for requirement in PROJECT["dependencies"] + EXTRAS:
        assert re.fullmatch(r"[a-z][a-z0-9-]*==\d+(\.\d+)+", requirement), requirement
    conda, binder = read("environment.yml"), read("binder/requirements.txt")
    lines = [line.strip() for line in conda.splitlines() if "==" in line]
    assert pins_in("\n".join(lines)) == list(PINS.items())
    for line in lines:
        assert re.fullmatch(r"- [\w-]+==[\w.]+ # \w.{5,}", line), f"no comment: {line}"
    assert "- -e . #" in conda
    cpu = {**PINS, "torch": f"{PINS['torch']}+cpu"}  # only PyTorch's own index has it
    assert re.search(r"^--extra-index-url https://\S+/cpu$", binder, re.MULTILINE)
    assert pins_in(binder) == list(cpu.items())
    python = PROJECT["requires-python"].removeprefix(">=")
    assert (
        f"- python={python}\n" in conda and read("binder/runtime.txt").strip() == f"python-{python}"
    )


def test_versions_in_the_texts():
    assert f"\nversion: {PROJECT['version']}\n" in read("CITATION.cff")
    pins = PINS | dict(line.split("==") for line in EXTRAS)
    for name in ["README.md", "CONTRIBUTING.md", "CITATION.cff", "notebooks/TEACHING.md"]:
        named = re.findall(r"\b(TRL|transformers|PEFT|torch) (\d+\.\d+\.\d+)", read(name))
        for package, version in pins_in(read(name)) + named:
            assert pins[package.lower()] == version.removesuffix("+cpu"), f"{name}: {package}"


def test_scripts_can_be_run_and_stop_at_the_first_error():
    for name, line in [
        ("binder/postBuild", "set -e\n"),
        ("binder/start", '\nos.execvp(sys.argv[1], sys.argv[1:])\' "$@"\n'),
        (".ci/run", "set -euo pipefail\n"),
    ]:
        assert read(name).startswith("#!") and line in read(name), name
        assert os.access(ROOT / name, os.X_OK), f"{name} is not executable"


def test_a_console_that_lacks_a_letter_stops_no_command(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stderr", console)
    assert main(["evaluate", "runs/Zoë→"]) == 1
    console.flush()
    assert "Zoë?" in console.buffer.getvalue().decode("cp1252")


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_make_sets_up_once_again_after_a_failure_and_after_a_changed_pin(tmp_path):
    """With a stand-in for Python that writes down what it is asked for."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(f"""#!/bin/sh
echo "$*" >> {log}
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
case "$*" in *"$FAIL_ON"*) test -z "$FAIL_ON" || exit 3;; esac
""")
    python.chmod(0o755)

    def make(verb: str, fail_on: str = "") -> list[str]:
        log.write_text("")
        command = ["make", f"PYTHON={python}", verb, "PIP_ARGS=--quiet"]
        environment = {"PATH": "/usr/bin:/bin", "FAIL_ON": fail_on}
        code = subprocess.run(command, cwd=tmp_path, env=environment, timeout=60).returncode
        assert bool(code) == bool(fail_on)
        checks = ("-c", "-m pip --version")  # whether there is an environment, and of which Python
        return [line for line in log.read_text().splitlines() if not line.startswith(checks)]

    install = "-m pip install --quiet"
    packages = [f"{install} torch=={PINS['torch']}", f"{install} -e .[dev]"]
    assert make("setup", fail_on="-e .[dev]") == ["-m venv .venv", *packages]
    assert make("demo") == [*packages, "-m deepeyes_lite demo"]
    assert make("demo") == ["-m deepeyes_lite demo"]
    (asked,) = make("test", fail_on="pytest")
    assert asked.startswith("-m pytest -q ") and asked.endswith("--nbval-current-env notebooks")
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(read("pyproject.toml").replace(f"torch=={PINS['torch']}", "torch==9.9.9"))
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 5
    os.utime(pyproject, (later, later))
    assert make("setup")[0] == f"{install} torch==9.9.9"
