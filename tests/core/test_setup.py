"""The lock fits pyproject.toml, the other set-up files follow from the lock; make does what it says."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import house
from deepeyes_lite import __version__
from deepeyes_lite.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [
    Requirement(line)
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
]
ASKED = [wanted for wanted in ASKED if wanted.name != "deepeyes-lite"]  # an extra within an extra


def pins_in(text: str) -> dict[str, str]:
    """All ``name==version`` in a text."""
    return dict(re.findall(r"([A-Za-z][\w.-]*)==([\w.+]*\w)", text))


LOCK = pins_in(read("requirements.lock"))


def test_the_lock_has_everything_that_is_asked_for_in_the_range_that_is_asked_for():
    for wanted in ASKED:
        assert wanted.name in LOCK, f"{wanted.name}: make the lock anew, see its head"
        assert LOCK[wanted.name] in wanted.specifier and "==" not in str(wanted.specifier), wanted
    lines = [line for line in read("requirements.lock").splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[\w.]+( ; .+)?", line), line


def test_what_is_tested_here_is_the_lock():
    """A difference here means that the environment is stale: make setup."""
    installed = {d.name.lower().replace("_", "-"): d.version for d in metadata.distributions()}
    stale = {
        name: (version, LOCK[name])
        for name, version in installed.items()
        if name in LOCK and version.split("+")[0] != LOCK[name]
    }
    assert not stale


def test_every_package_of_the_base_says_what_for_and_trackio_would_fit():
    for line in PROJECT["dependencies"]:
        assert re.search(
            rf'^    "{re.escape(line)}", # \w.{{5,}}$', read("pyproject.toml"), re.M
        ), line
    (pillow,) = (wanted for wanted in ASKED if wanted.name == "pillow")
    assert "12.3.0" in pillow.specifier  # the newest that trackio takes


def test_the_other_files_follow_from_the_lock():
    conda, binder = read("environment.yml"), read("binder/requirements.txt")
    assert "\n      - -c requirements.lock\n      - -e .[notebooks]\n" in conda
    assert "\n-c ../requirements.lock\n" in binder and binder.endswith("\n-e .[notebooks]\n")
    assert pins_in(binder) == {"torch": f"{LOCK['torch']}+cpu"}  # only PyTorch's own index has it
    assert re.search(r"^--extra-index-url https://\S+/cpu$", binder, re.MULTILINE)
    assert pins_in(conda) == {}
    python = PROJECT["requires-python"].removeprefix(">=")
    assert (
        f"- python={python}\n" in conda and read("binder/runtime.txt").strip() == f"python-{python}"
    )
    container = json.loads(re.sub(r"^//.*", "", read(".devcontainer/devcontainer.json")))
    assert container["image"].endswith(f":{python}")
    assert container["postCreateCommand"].startswith("make setup ")


def test_versions_in_the_texts():
    assert f"\nversion: {__version__}\n" in read("CITATION.cff")
    assert f"\n## {__version__}" in read("CHANGELOG.md")
    for name in ["README.md", "CONTRIBUTING.md", "CITATION.cff", "notebooks/TEACHING.md"]:
        named = dict(re.findall(r"\b(TRL|transformers|PEFT|torch) (\d+\.\d+\.\d+)", read(name)))
        for package, version in {**pins_in(read(name)), **named}.items():
            assert LOCK[package.lower()] == version.removesuffix("+cpu"), f"{name}: {package}"


def test_the_address_is_the_same_everywhere():
    """Else: python tests/house.py --write, which carries that of pyproject.toml to the others."""
    for path in house.ADDRESSED:
        addresses = set(house.ADDRESS.findall(path.read_text(encoding="utf-8")))
        assert addresses == {house.address()}, path


def test_scripts_can_be_run_and_stop_at_the_first_error():
    for name, line in [
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
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
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
    torch = f"{install} torch=={LOCK['torch']}"
    packages = [torch, f"{install} -c requirements.lock -e .[dev]"]
    assert make("setup", fail_on="-e .[dev]") == ["-m venv .venv", *packages]
    assert make("demo") == [*packages, "-m deepeyes_lite demo"]
    assert make("demo") == ["-m deepeyes_lite demo"]
    (asked,) = make("test", fail_on="pytest")
    assert asked.startswith("-m pytest -q ") and asked.endswith("--nbval-current-env notebooks")
    lock = tmp_path / "requirements.lock"
    lock.write_text(re.sub("^torch==.*", "torch==9.9.9", read("requirements.lock"), flags=re.M))
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 5
    os.utime(lock, (later, later))
    assert make("setup")[0] == f"{install} torch==9.9.9"
