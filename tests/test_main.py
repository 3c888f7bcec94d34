"""__main__.py: every command, its help, and errors in words instead of tracebacks."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepeyes_lite.__main__ import _parser, main
from deepeyes_lite.data import tiny_world
from deepeyes_lite.training import RunConfig
from deepeyes_lite.trajectories import read_jsonl

COMMANDS = [
    "demo",
    "train",
    "evaluate",
    "rollout",
    "select",
    "study",
    "claims",
    "pretrain",
    "card",
    "grade",
    "doctor",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"python -m deepeyes_lite {command}" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {command}" in text for command in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["dance"], ["evaluate"], ["train", "--steps", "many"]])
def test_what_cannot_be_understood_ends_with_usage_and_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: python -m deepeyes_lite" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "Makefile",
        "CONTRIBUTING.md",
        "notebooks/TEACHING.md",
        "data/tiny-eyes/README.md",
    ],
)
def test_the_commands_in_the_text_can_be_understood(name):
    """Of Makefile and READMEs, where somebody copies them from."""
    text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
    commands = re.findall(r"(?:python|PY\)) -m deepeyes_lite ([^`#|\n]+)", text)
    assert commands
    for command in commands:
        words = command.replace("--seed N", "--seed 1").replace("ARM", "none").split()
        assert _parser().parse_args(words).command == words[0], command


def test_the_help_needs_no_torch():
    code = (
        "import runpy, sys; sys.argv = ['deepeyes_lite', '--help']\n"
        "try: runpy.run_module('deepeyes_lite', run_name='__main__')\n"
        "except SystemExit as stop: print('code', stop.code, 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "code 0 False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--out", "nowhere"], "no config.json in nowhere; start a run with `train"),
        (["train", "--preset", "fast"], "unknown preset 'fast'; there are demo, quick"),
        (["demo", "--preset", "fast"], "unknown preset 'fast'"),
        (["train", "--arm", "bonus"], "unknown arm 'bonus'; there are conditional, unconditional"),
        (["train", "--model", "nowhere"], "no model.safetensors in nowhere; make one with"),
        (["train", "--steps", "0", "--model", "eyes"], "n is at least 1"),
        (["train", "--out", "a-file"], "a-file"),
        (["rollout", "--out", "x.jsonl", "--run-folder", "nowhere"], "no adapter in nowhere"),
        (["rollout", "--out", "x.jsonl", "--tool", "half"], "tool must be one of on, off, blank"),
        (["rollout", "--out", "x.jsonl", "--samples", "0"], "n is at least 1"),
        (["card", "--model", "nowhere"], "no model.safetensors in nowhere"),
    ],
)
def test_an_error_is_one_line_and_code_1(
    arguments, message, capsys, monkeypatch, tmp_path, random_eyes
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunConfig, "model", str(random_eyes))
    (tmp_path / "a-file").touch()
    (tmp_path / "eyes").symlink_to(random_eyes)
    assert main(arguments) == 1
    (line,) = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith("deepeyes-lite")
    )
    assert line.startswith(f"deepeyes-lite {arguments[0]}: ") and message in line
    with pytest.raises((ValueError, OSError)):
        main(["--debug", *arguments])


def test_rollout_writes_episodes(random_eyes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(RunConfig, "model", str(random_eyes))
    path = tmp_path / "episodes.jsonl"
    assert main(["rollout", "--out", str(path), "--samples", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out == f"0 of 3 right, 0 with a zoom: {path}\n"
    first = path.read_text()
    assert [t.sample["id"] for t in read_jsonl(path)] == ["test-0", "test-1", "test-2"]
    main(["rollout", "--out", str(path), "--samples", "3", "--seed", "1"])
    assert path.read_text() == first
    main(["rollout", "--out", str(path), "--samples", "3", "--seed", "2", "--tool", "off"])
    assert path.read_text() != first


def test_rollout_takes_a_finished_run(finished_run, tmp_path):
    path = tmp_path / "episodes.jsonl"
    arguments = ["--run-folder", str(finished_run), "--samples", "1"]
    assert main(["rollout", "--out", str(path), *arguments]) == 0
    assert len(read_jsonl(path)) == 1


def test_demo_trains_evaluates_and_reports_and_the_second_time_has_nothing_to_do(
    random_eyes, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--preset", "quick", "--model", str(random_eyes), "--samples", "2"]
    assert main([*arguments, "--seed", "3"]) == 0
    out = tmp_path / "runs" / "quick-conditional-3"
    text = capsys.readouterr().out
    assert "2 held-out scenes" in text and "trained, blank crops" in text
    assert text.rstrip().endswith(f"report: {out.relative_to(tmp_path)}/report.html")
    left = {
        "config.json",
        "history.csv",
        "evaluation.json",
        "adapter",
        "trajectories",
        "report.html",
    }
    assert left <= {path.name for path in out.iterdir()}
    weights = (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert main([*arguments, "--seed", "3"]) == 0
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == weights
    assert "2 held-out scenes" in capsys.readouterr().out


def test_evaluate_writes_table_and_report_of_a_finished_run(finished_run, tmp_path, capsys):
    out = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["evaluate", "--out", str(out), "--samples", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 held-out scenes" in text and f"report: {out}/report.html" in text


def test_select_writes_what_it_kept_and_why(random_eyes, tmp_path, capsys):
    out = tmp_path / "selection"
    arguments = ["select", "--out", str(out), "--model", str(random_eyes), "--k", "2"]
    assert main([*arguments, "--samples", "6"]) == 0
    text = capsys.readouterr().out
    assert "0 of 6 questions kept" in text and "6 never right" in text  # random weights
    names = {"config.json", "difficulty.jsonl", "tool_benefit.jsonl", "report.json"}
    assert names | {"selected", "pass_rates.png"} <= {path.name for path in out.iterdir()}
    assert json.loads((out / "report.json").read_text())["questions"] == 6
    assert main([*arguments, "--samples", "6"]) == 0
    assert main([*arguments, "--samples", "7"]) == 1
    assert "holds another run" in capsys.readouterr().err


def test_select_takes_a_folder_of_one_s_own(random_eyes, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    tiny_world("train", 1)[0]["image"].save(folder / "a.png")
    rows = "image,question,answer\na.png,What is it?,a scene\nb.png,What?,nothing\n"
    (folder / "questions.csv").write_text(rows)
    arguments = ["--folder", str(folder), "--model", str(random_eyes), "--k", "1"]
    assert main(["select", "--out", str(tmp_path / "out"), *arguments]) == 0
    text = capsys.readouterr().out
    assert "0 of 1 questions kept" in text and "b.png" in text
