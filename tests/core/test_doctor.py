"""doctor.py: every requirement, met and not met."""

import builtins
import subprocess
import sys
from collections import namedtuple
from importlib import metadata

import pytest

from deepeyes_lite import doctor


def test_python():
    assert doctor.check_python((3, 11, 0)).ok
    assert doctor.check_python((3, 13, 2)).ok
    old = doctor.check_python((3, 10, 14))
    assert str(old) == (
        "[fail] Python 3.10.14: install Python 3.11 or newer and make the environment anew"
    )


def test_pins_of_this_environment():
    checks = doctor.check_pins()
    assert {check.text.split()[0] for check in checks} >= {"torch", "transformers", "trl", "peft"}
    # A red line here means that the environment is stale: make setup.
    assert [str(check) for check in checks if not check.ok] == []


def test_pins_missing_wrong_and_of_another_build(monkeypatch):
    requires = ["torch==2.13.0", "trl==1.16.0", "peft==0.21.2", 'pytest==9.2.0; extra == "dev"']
    found = {"torch": "2.13.0+cpu", "trl": "1.9.0"}

    def version(name):
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "version", version)
    assert [str(check) for check in doctor.check_pins()] == [
        "[ok]   torch 2.13.0+cpu",
        "[fail] trl 1.9.0, but 1.16.0 is wanted: run `pip install trl==1.16.0`",
        "[fail] peft is not installed: run `pip install peft==0.21.2`",
    ]


def test_package_itself_not_installed(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (check,) = doctor.check_pins()
    assert not check.ok and "pip install -e ." in check.remedy


def test_torch_names_the_precision():
    check = doctor.check_torch()
    assert check.ok
    assert f"training is in {doctor.precision()[0]} (" in check.text


@pytest.mark.parametrize(
    "error",
    [ImportError("No module named 'torch'"), OSError("libgomp.so.1: gone\nmore"), OSError()],
)
def test_torch_that_cannot_be_imported(monkeypatch, error):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "torch":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    check = doctor.check_torch()
    assert not check.ok and "\n" not in str(check)
    assert "torch cannot be imported" in check.text and "pip install" in check.remedy


def test_cores(monkeypatch):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert not doctor.check_cores().ok
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert doctor.check_cores().ok


def test_memory(monkeypatch, tmp_path):
    psutil = pytest.importorskip("psutil")
    Memory = namedtuple("Memory", "available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(8e9))
    assert doctor.check_memory(tmp_path).text == "free memory 8.0 GB"  # no container
    (tmp_path / "memory.current").write_text("500000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.check_memory(tmp_path).ok
    (tmp_path / "memory.max").write_text("2000000000\n")
    check = doctor.check_memory(tmp_path)
    assert not check.ok and check.text == "free memory 1.5 GB"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory(1e9))
    assert doctor.check_memory(tmp_path).text == "free memory 1.0 GB"
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert "unknown" in doctor.check_memory(tmp_path).text


def test_disk(monkeypatch, tmp_path):
    Usage = namedtuple("Usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(3e9))
    assert doctor.check_disk(tmp_path).ok
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: Usage(1e9))
    assert "make room for 2 GB" in doctor.check_disk(tmp_path).remedy


def test_model(tmp_path):
    (tmp_path / "config.json").touch()
    check = doctor.check_model(tmp_path)
    assert not check.ok
    assert "lacks model.safetensors, tokenizer.json" in check.text
    assert "python -m deepeyes_lite pretrain" in check.remedy
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "tokenizer.json").touch()
    assert doctor.check_model(tmp_path).ok


def test_widgets(monkeypatch):
    assert doctor.check_widgets().ok
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert "no ipywidgets, jupyterlab_widgets" in doctor.check_widgets().text


def test_main_prints_a_line_each_and_returns_the_status(monkeypatch, capsys):
    good = doctor.Check(True, "Python 3.11.7")
    bad = doctor.Check(False, "free disk 0.4 GB", "make room")
    monkeypatch.setattr(doctor, "checks", lambda: [good])
    assert doctor.main() == 0
    assert capsys.readouterr().out == "[ok]   Python 3.11.7\neverything is in place\n"
    monkeypatch.setattr(doctor, "checks", lambda: [good, bad])
    assert doctor.main() == 1
    assert "[fail] free disk 0.4 GB: make room\n1 of 2 to mend" in capsys.readouterr().out


def test_all_requirements_are_looked_at():
    texts = " | ".join(check.text for check in doctor.checks())
    for what in ("Python", "trl", "CPU cores", "memory", "disk", "tiny-eyes", "ipywidgets in"):
        assert what in texts


def test_importing_doctor_needs_the_standard_library_only():
    # -S: no site-packages, as in an environment in which nothing is installed.
    code = "from deepeyes_lite import doctor; print(doctor.check_python())"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        cwd=doctor.ROOT,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "Python 3" in result.stdout
