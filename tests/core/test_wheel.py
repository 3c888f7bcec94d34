"""The wheel alone, in a fresh environment and an empty folder outside of the repository, does its work."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_MB = 25


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy, so that nothing is left in the repository and nothing old gets in."""
    source = tmp_path_factory.mktemp("source") / "copy"
    unwanted = ("runs", "build", "dist", "*.egg-info", "__pycache__")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-docs.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "data", source / "data")
    ignore = shutil.ignore_patterns(*unwanted)
    shutil.copytree(ROOT / "deepeyes_lite", source / "deepeyes_lite", ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", source / "out", source], check=True, timeout=600)
    (path,) = (source / "out").glob("deepeyes_lite-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `bin` folder of a fresh environment with the wheel in it.

    Links in it lead to this environment's packages, so that torch is not downloaded again; the repository and
    what it was installed with are left out.
    """
    folder = tmp_path_factory.mktemp("fresh") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", vars=paths))
    for name in {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}:
        for path in Path(name).iterdir():
            if "deepeyes" not in path.name.lower() and path.suffix != ".pth":
                (own / path.name).symlink_to(path)
    scripts = Path(sysconfig.get_path("scripts", vars=paths))
    python = scripts / Path(sys.executable).name
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=600, env=clean())
    return scripts


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def test_the_wheel_is_small_and_has_what_commands_read(wheel):
    assert wheel.stat().st_size < MOST_MB * 1e6
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ROOT.glob("data/tiny-eyes*"):
        for path in folder.iterdir():
            assert f"deepeyes_lite/_data/{folder.name}/{path.name}" in names
    for path in (ROOT / "deepeyes_lite").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names, "name it in package-data of pyproject.toml"
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"deepeyes_lite"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_wheel_works_in_an_empty_folder(installed, tmp_path):
    def run(*words: str, codes: tuple[int, ...] = (0,)) -> str:
        script = installed / "deepeyes-lite"
        result = subprocess.run(
            [script, *words], cwd=tmp_path, env=clean(), capture_output=True, text=True, timeout=600
        )
        assert result.returncode in codes, (words, result.stdout, result.stderr)
        assert result.stderr.startswith("loading …\n") or words == ("--version",)
        return result.stdout

    assert run("--version").startswith("deepeyes-lite ")
    report = run("doctor", codes=(0, 1))  # this machine may lack memory, but nothing may be missing
    failed = re.findall(r"^\[fail\] (?!CPU cores|free ).*", report, re.MULTILINE)
    assert f"[ok]   tiny-eyes in {installed.parent}" in report and not failed
    text = run("scene", "--out", "scene.png")
    question, answer = re.match(r"question: (.+)\nanswer: (\w+)\n", text).groups()
    assert " of 2 correct, " in run("rollout", "--samples", "2", "--out", "episodes.jsonl")
    text = run("ask", "scene.png", question, "--adapter", "tiny-eyes-zooms")
    assert "zoom 1: " in text and f"\nanswer: {answer}\n" in text
    assert "replicated" in run("claims")
    made = {"scene.png", "episodes.jsonl", "ask.html", "runs"}
    there = {path.name for path in tmp_path.iterdir()}
    assert {name for name in there if not name.endswith(".lock")} == made
