"""The set-up files agree with pyproject.toml, the one list of pins."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in PROJECT["dependencies"])
DEV_PINS = dict(line.split("==") for line in PROJECT["optional-dependencies"]["dev"])


def read(name):
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"no {name} here")
    return path.read_text(encoding="utf-8")


def pins_in(text):
    """All ``name==version`` in a text, in order."""
    return re.findall(r"([A-Za-z][\w.-]*)==([\w.+]*\w)", text)


def test_pins_are_exact():
    optional = [pin for pins in PROJECT["optional-dependencies"].values() for pin in pins]
    for requirement in PROJECT["dependencies"] + optional:
        assert re.fullmatch(r"[a-z][a-z0-9-]*==\d+(\.\d+)+", requirement), requirement
    assert not set(PINS) & set(DEV_PINS)


def test_environment_yml_has_the_pins_and_says_what_each_is_for():
    text = read("environment.yml")
    lines = [line.strip() for line in text.splitlines() if "==" in line]
    assert dict(pins_in("\n".join(lines))) == PINS
    assert len(lines) == len(PINS)
    for line in lines:
        assert re.fullmatch(r"- [\w-]+==[\w.]+ # \w.{5,}", line), f"no comment: {line}"
    assert "- -e . #" in text


def test_binder_has_the_pins_and_the_cpu_build_of_torch():
    lines = [line for line in read("binder/requirements.txt").splitlines() if line[0] != "#"]
    index, *lines = lines
    assert re.fullmatch(r"--extra-index-url https://\S+/cpu", index)
    wanted = {**PINS, "torch": f"{PINS['torch']}+cpu"}
    assert pins_in("\n".join(lines)) == list(wanted.items())
    assert len(lines) == len(PINS)


def test_one_python_version():
    python = re.search(r"- python=(\S+)", read("environment.yml"))[1]
    assert read("binder/runtime.txt").strip() == f"python-{python}"
    assert PROJECT["requires-python"] == f">={python}"


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CITATION.cff", "notebooks/TEACHING.md"]
)
def test_versions_in_the_text(name):
    text = read(name)
    for package, version in pins_in(text):
        pin = (PINS | DEV_PINS).get(package)
        assert pin == version.removesuffix("+cpu"), f"{name}: {package}=={version}"
    if name == "CITATION.cff":
        assert re.search(r"^version: (.*)$", text, re.M)[1] == PROJECT["version"]
    names = "|".join(["TRL", "transformers", "PEFT", "torch"])
    for package, version in re.findall(rf"\b({names}) (\d+\.\d+\.\d+)", text):
        assert PINS[package.lower()] == version, f"{name}: {package} {version}"


def test_scripts_can_be_run_and_stop_at_the_first_error():
    for name, needed in [
        ("binder/postBuild", "set -e\n"),
        ("binder/start", '\nos.execvp(sys.argv[1], sys.argv[1:])\' "$@"\n'),
        (".ci/run", "set -euo pipefail\n"),
    ]:
        text = read(name)
        assert text.startswith("#!") and needed in text, name
        assert (ROOT / name).stat().st_mode & 0o100, f"{name} is not executable"
        subprocess.run(["bash", "-n", ROOT / name], check=True)


@pytest.fixture
def make(tmp_path):
    """Run make with an environment of stand-ins; what they were asked for is what it returns."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    log = tmp_path / "log"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    # `python -m venv DIR` puts the stand-in into DIR; everything else is written down.
    python.write_text(
        f"""#!/bin/sh
echo "$*" >> {log}
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
case "$*" in *"$FAIL_ON"*) test -z "$FAIL_ON" || exit 3;; esac
"""
    )
    python.chmod(0o755)

    def run(*arguments, fail_on=""):
        log.write_text("")
        result = subprocess.run(
            ["make", f"PYTHON={python}", *arguments],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "FAIL_ON": fail_on},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result, [line for line in log.read_text().splitlines() if not line.startswith("-c")]

    return run


def test_make_demo_sets_up_by_itself_once(make):
    result, asked = make("demo", "PIP_ARGS=--no-cache-dir")
    assert result.returncode == 0, result.stderr
    assert asked == [
        "-m venv .venv",
        f"-m pip install --no-cache-dir torch=={PINS['torch']}",
        "-m pip install --no-cache-dir -e .[dev]",
        "-m deepeyes_lite demo",
    ]
    assert make("demo")[1] == ["-m deepeyes_lite demo"]


def test_make_test_is_one_pytest_and_fails_with_it(make):
    make("setup")
    result, asked = make("test")
    assert result.returncode == 0, result.stderr
    assert asked == [
        "-m pytest -q --doctest-modules deepeyes_lite tests "
        "--nbval-lax --nbval-current-env notebooks"
    ]
    assert make("test", fail_on="pytest")[0].returncode != 0


def test_make_setup_that_failed_is_tried_again(make):
    assert make("setup", fail_on="-e .[dev]")[0].returncode != 0
    result, asked = make("setup")
    assert result.returncode == 0
    assert asked[-1] == "-m pip install -e .[dev]"
    assert "-m venv .venv" not in asked  # the environment that is there is used


def test_make_setup_follows_a_changed_pin(make, tmp_path):
    make("setup")
    assert make("setup")[1] == []
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace(f"torch=={PINS['torch']}", "torch==9.9.9"))
    stamp = tmp_path / ".venv" / ".ready"
    later = stamp.stat().st_mtime + 5
    os.utime(pyproject, (later, later))
    assert "-m pip install torch==9.9.9" in make("setup")[1]


def test_make_help_lists_every_verb(make):
    text = make()[0].stdout
    makefile = read("Makefile")
    for verb in re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split():
        assert f"make {verb}" in text
