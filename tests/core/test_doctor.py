"""doctor.py: every requirement, met and not met."""

import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from deepeyes_lite import doctor


def test_pins_of_this_environment():
    checks = doctor.check_pins()
    assert {check.text.split()[0] for check in checks} >= {"torch", "transformers", "trl", "peft"}
    # A red line here means that the environment is stale: make setup.
    assert [str(check) for check in checks if not check.ok] == []


def test_pins_missing_wrong_and_of_another_build(monkeypatch):
    requires = ["torch>=2.6", "trl>=1.16,<1.17", "peft>=0.21", 'pytest>=9; extra == "dev"']
    installed = {"torch": "2.13.0+cpu", "trl": "1.9.0"}

    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "requires", lambda name: requires)
    monkeypatch.setattr(metadata, "version", version)
    assert [str(check) for check in doctor.check_pins()] == [
        "[ok]   torch 2.13.0+cpu",
        "[fail] trl 1.9.0, but <1.17,>=1.16 is wanted: run `pip install 'trl<1.17,>=1.16'`",
        "[fail] peft is not installed: run `pip install 'peft>=0.21'`",
    ]
    monkeypatch.setattr(metadata, "requires", version)  # the package itself is not installed
    (check,) = doctor.check_pins()
    assert not check.ok and "pip install -e ." in check.remedy


def test_torch_names_the_precision_or_why_it_cannot_be_imported(monkeypatch):
    check = doctor.check_torch()
    assert check.ok and f"training is in {doctor.precision()[0]} (" in check.text
    monkeypatch.setitem(sys.modules, "torch", None)
    check = doctor.check_torch()
    assert not check.ok and "\n" not in str(check)
    assert "torch cannot be imported" in check.text and "pip install" in check.remedy


def test_python_cores_and_disk(monkeypatch, tmp_path):
    assert "install Python 3.11" in doctor.check_python((3, 10, 14)).remedy
    for cores, gigabytes, ok in (({0}, 1, False), ({0, 3}, 3, True)):
        usage = SimpleNamespace(free=gigabytes * 1e9)
        monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid, c=cores: c, raising=False)
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder, usage=usage: usage)
        assert doctor.check_python((3, 11 if ok else 10, 0)).ok == ok
        assert doctor.check_cores().ok == doctor.check_disk(tmp_path).ok == ok


def test_memory(monkeypatch, tmp_path):
    psutil = pytest.importorskip("psutil")
    free = SimpleNamespace(available=8e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert doctor.check_memory(tmp_path).text == "free memory 8.0 GB"  # no container
    (tmp_path / "memory.current").write_text("500000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.check_memory(tmp_path).ok
    (tmp_path / "memory.max").write_text("2000000000\n")
    check = doctor.check_memory(tmp_path)
    assert not check.ok and check.text == "free memory 1.5 GB"
    free.available = 1e9
    assert doctor.check_memory(tmp_path).text == "free memory 1.0 GB"
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert "unknown" in doctor.check_memory(tmp_path).text


def test_model_and_widgets(tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()
    check = doctor.check_model(tmp_path)
    assert not check.ok and "python -m deepeyes_lite pretrain" in check.remedy
    assert "lacks model.safetensors, tokenizer.json" in check.text
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "tokenizer.json").touch()
    assert doctor.check_model(tmp_path).ok
    assert doctor.check_widgets().ok
    monkeypatch.setattr(doctor, "find_spec", lambda name: name if name == "jupyterlab" else None)
    check = doctor.check_widgets()
    assert not check.ok and "no ipywidgets, jupyterlab_widgets" in check.text
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)  # the base install does without
    check = doctor.check_widgets()
    assert check.ok and "pip install 'deepeyes-lite[notebooks]'" in check.text


def test_main_prints_a_line_each_and_returns_the_status(monkeypatch, capsys):
    texts = " | ".join(check.text for check in doctor.checks())
    for what in ("Python", "trl", "CPU cores", "memory", "disk", "tiny-eyes", "ipywidgets in"):
        assert what in texts
    good = doctor.Check(True, "Python 3.11.7")
    bad = doctor.Check(False, "free disk 0.4 GB", "make room")
    monkeypatch.setattr(doctor, "checks", lambda: [good])
    assert doctor.main() == 0
    assert capsys.readouterr().out == "[ok]   Python 3.11.7\neverything is in place\n"
    monkeypatch.setattr(doctor, "checks", lambda: [good, bad])
    assert doctor.main() == 1
    assert "[fail] free disk 0.4 GB: make room\n1 of 2 to mend" in capsys.readouterr().out


def test_importing_doctor_needs_the_standard_library_only():
    # -S: no site-packages, as in an environment in which nothing is installed.
    code = "from deepeyes_lite import doctor; print(doctor.check_python())"
    python = [sys.executable, "-S", "-c", code]
    result = subprocess.run(
        python, capture_output=True, text=True, cwd=doctor.DATA.parent, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "Python 3" in result.stdout
