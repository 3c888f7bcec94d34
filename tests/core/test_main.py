"""__main__.py: every command, its help, and errors in words instead of tracebacks."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from deepeyes_lite.__main__ import COMMANDS, GROUPS, config_of, main, parser, trl_options
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.training import PRESETS, RunConfig
from deepeyes_lite.trajectories import read_jsonl


def parsed(*words):
    return parser([*words]).parse_args([*words])


def test_every_command_has_help_and_a_group(capsys):
    assert sorted(COMMANDS) == sorted(name for names in GROUPS.values() for name in names)
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert f"deepeyes-lite {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n    {command}" in text for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["evaluate"],
        ["train", "--steps", "many"],
        ["train", "--reward", "bonus"],
        ["demo", "--preset", "fast"],
        ["rollout", "--out", "x.jsonl", "--tool", "half"],
        ["ask", "a.png", "?", "--frame", "px"],
    ],
)
def test_what_cannot_be_understood_ends_with_usage_and_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: deepeyes-lite" in capsys.readouterr().err


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
    text = (Path(__file__).parents[2] / name).read_text(encoding="utf-8")
    for command in re.findall(r"(?:python|PY\)) -m deepeyes_lite ([^`#|\n]+)", text):
        words = shlex.split(command.replace("--seed N", "--seed 1"))
        assert parsed(*words).command == words[0], command


def test_every_field_of_a_run_has_a_flag_and_the_yaml_file_comes_before_the_flags(tmp_path):
    config, out = config_of(parsed("train"))
    assert config == RunConfig() and str(out) == "runs/demo-conditional-0"
    flags = {"--trl": "beta=0.01"}
    flags |= {
        f"--{f.name.replace('_', '-')}": "1" for f in fields(RunConfig) if f.type in ("int", int)
    }
    words = [word for pair in flags.items() for word in pair]
    words += ["--reward", "none", "--bonus", "0.5", "--model", "m", "--no-quantise"]
    config, out = config_of(parsed("train", "--preset", "8GB", *words, "--trl", "loss_type=grpo"))
    assert (config.seed, config.max_pixels, config.reward, config.bonus) == (1, 1, "none", 0.5)
    assert not config.quantise and PRESETS["8GB"].quantise
    assert config.trl == {"beta": 0.01, "loss_type": "grpo"} and PRESETS["8GB"].trl == {}
    assert str(out) == "runs/8GB-none-1"
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7\nseed: 3\ntrl: {beta: 0.5}\n")
    config, _ = config_of(parsed("train", "--config", str(path), "--seed", "4"))
    assert config == replace(RunConfig(), steps=7, seed=4, trl={"beta": 0.5})
    for text in ("steps", "dance: 1", "{"):
        path.write_text(text)
        with pytest.raises(ValueError, match="run.yaml (must hold options of a run|is no YAML)"):
            config_of(parsed("train", "--config", str(path)))
    for text in ("", "beta", "=1"):
        with pytest.raises(ValueError, match="given as NAME=VALUE"):
            trl_options([text])


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
        (["evaluate", "nowhere"], "no config.json in nowhere; start a run with `train"),
        (["train", "--model", "nowhere"], "nowhere is neither a folder with a model nor"),
        (["train", "--steps", "0", "--model", "eyes"], "n is at least 1"),
        (["train", "--out", "a-file", "--model", "eyes"], "a-file"),
        (
            ["train", "--trl", "num_generations=4", "--model", "eyes"],
            "set --num-generations instead",
        ),
        (["rollout", "--out", "x.jsonl", "--run", "nowhere"], "no adapter in nowhere"),
        (["rollout", "--out", "a-file"], "a-file is there already; choose another name"),
        (["rollout", "--out", "x.jsonl", "--samples", "0"], "n is at least 1"),
        (["card", "nowhere"], "nowhere is neither a folder with a model nor"),
    ],
)
def test_an_error_is_one_line_and_code_1(
    arguments, message, capsys, monkeypatch, tmp_path, random_eyes
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "eyes").symlink_to(random_eyes)
    assert main(arguments) == 1
    (line,) = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith("deepeyes-lite")
    )
    assert line.startswith(f"deepeyes-lite {arguments[0]}: ") and message in line
    with pytest.raises((ValueError, OSError)):
        main(["--debug", *arguments])


def test_rollout_writes_episodes(random_eyes, tmp_path, capsys):
    def rolled(name, *arguments):
        path = tmp_path / f"{name}.jsonl"
        words = ["rollout", "--out", str(path), "--model", str(random_eyes), *arguments]
        assert main(words) == 0
        assert f"correct, 0 with a zoom: {path}\n" in capsys.readouterr().out
        return path

    first = rolled("first", "--samples", "3", "--seed", "1")
    assert [t.sample["id"] for t in read_jsonl(first)] == ["test-0", "test-1", "test-2"]
    same = rolled("same", "--samples", "3", "--seed", "1")
    assert same.read_text() == first.read_text()
    other = rolled("other", "--samples", "3", "--seed", "2", "--tool", "off")
    assert other.read_text() != first.read_text()
    kinds = rolled("kinds", "--samples", "2", "--kind", "compare")
    assert [t.sample["kind"] for t in read_jsonl(kinds)] == ["compare"] * 2


def test_rollout_takes_a_finished_run(finished_run, tmp_path):
    path = tmp_path / "episodes.jsonl"
    arguments = ["--run", str(finished_run), "--samples", "1"]
    assert main(["rollout", "--out", str(path), *arguments]) == 0
    assert len(read_jsonl(path)) == 1


@pytest.mark.train
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
    left = {"config.json", "history.csv", "evaluation.json", "adapter", "snapshots", "report.html"}
    assert left <= {path.name for path in out.iterdir()}
    weights = (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert main([*arguments, "--seed", "3"]) == 0
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == weights
    assert "2 held-out scenes" in capsys.readouterr().out


def test_evaluate_writes_table_and_report_of_a_finished_run(finished_run, tmp_path, capsys):
    out = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["evaluate", str(out), "--samples", "2"]) == 0
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


# --- served models ------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    tiny_world("test", 1)[0]["image"].save(path)
    return str(path)


def test_ask_prints_the_episode_and_writes_the_page(faulty, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        main(["ask", photo, "Which letter?", "--endpoint", f"{faulty}/parsed/v1", "--model", "m"])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "question: Which letter?",
        'turn 1: <think>Hm.</think><tool_call>{"name": "image_zoom_in_tool", '
        '"arguments": {"bbox_2d": [10, 20, 100, 200]}}</tool_call>',
        "  zoom 1: (4, 8) to (38, 77) px",
        "turn 2: <think>I see it.</think><answer>K</answer>",
        "answer: K",
        "page: ask.html",
    ]
    assert "data:image/jpeg" in (tmp_path / "ask.html").read_text()


def test_ask_speaks_as_deepeyes_does(faulty, photo, tmp_path, capsys):
    served = ["--endpoint", f"{faulty}/deepeyes/v1", "--model", "m", "--prompt", "deepeyes"]
    assert main(["ask", photo, "?", "--out", str(tmp_path / "d.html"), *served]) == 0
    # 384 px are seen as 392: the box is asked for in pixels of the view
    assert "zoom 1: (10, 20) to (98, 196) px" in capsys.readouterr().out
    assert (
        main(["ask", photo, "?", "--out", str(tmp_path / "e.html"), *served, "--frame", "box_1000"])
        == 0
    )
    assert "zoom 1: (4, 8) to (38, 77) px" in capsys.readouterr().out


def test_ask_takes_tiny_eyes_where_no_server_is_named(
    random_eyes, finished_run, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["ask", photo, "Which letter?", "--model", str(random_eyes)]) == 0
    text = capsys.readouterr().out
    assert "turn 1: " in text and "knows only its own world" in text
    assert main(["ask", photo, "Which letter?", "--run", str(finished_run)]) == 0
    wide = tmp_path / "wide.jpg"
    tiny_world("test", 1)[0]["image"].resize((1200, 500)).save(wide)
    assert main(["ask", str(wide), "Which letter?", "--model", str(random_eyes)]) == 0
    assert {"ask.html", "ask-2.html", "ask-3.html"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "?"], "no file 'nowhere.png'"),
        (["a-file", "?"], "'a-file' is not an image (PNG, JPEG"),
        (
            ["PHOTO", "?<|im_end|>", "--endpoint", "URL/x/v1", "--model", "m"],
            "only the template may",
        ),
        (["PHOTO", "?", "--out", "PHOTO"], "its name ends in .html"),
        (["PHOTO", "?", "--out", "there.html"], "there.html is there already; choose another name"),
        (["PHOTO", "?", "--environment", "os.path"], "'os.path' is no subclass of"),
        (["PHOTO", "?", "--model", "m"], "m is neither a folder with a model nor"),
        (["PHOTO", "?", "--model", "m", "--run", "r"], "two models; choose one"),
        (["PHOTO", "?", "--endpoint", "URL/x/v1", "--run", "r"], "two models; choose one"),
        (["PHOTO", "?", "--endpoint", "URL/x/v1"], "name a model; "),
        (["PHOTO", "?", "--endpoint", "localhost:1"], "address is like http://localhost:8000/v1"),
        (["PHOTO", "?", "--endpoint", "URL/locked/v1", "--model", "m"], "refuses the key"),
        (["PHOTO", "?", "--endpoint", "URL/other-model/v1", "--model", "m"], "does not serve 'm'"),
    ],
)
def test_asking_wrongly_is_one_line(
    arguments, message, faulty, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").touch()
    (tmp_path / "there.html").touch()
    words = [w.replace("PHOTO", photo).replace("URL", faulty) for w in arguments]
    assert main(["ask", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deepeyes-lite ask: ") and message in line


def test_an_episode_that_the_server_ended_is_shown_and_fails(faulty, photo, tmp_path, capsys):
    served = ["--endpoint", f"{faulty}/short/v1", "--model", "m"]
    assert main(["ask", photo, "?", "--out", str(tmp_path / "p.html"), *served]) == 1
    assert "the conversation is too long for m" in capsys.readouterr().out


def test_rollout_of_a_served_model_goes_on_and_mixes_no_two(faulty, tmp_path, capsys):
    path = tmp_path / "episodes.jsonl"
    arguments = ["rollout", "--out", str(path), "--samples", "3"]
    arguments += ["--endpoint", f"{faulty}/parsed/v1"]
    assert main([*arguments, "--model", "m"]) == 0
    assert capsys.readouterr().out == f"0 of 3 correct, 3 with a zoom: {path}\n"
    first = path.read_text()
    assert main([*arguments, "--model", "m"]) == 0 and path.read_text() == first
    assert main([*arguments, "--model", "another"]) == 1
    assert "holds another run" in capsys.readouterr().err and path.read_text() == first


def test_rollout_asks_a_judge_what_no_rule_can_tell(faulty, random_eyes, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    tiny_world("test", 1)[0]["image"].save(folder / "a.png")
    rows = "image,question,answer\na.png,What letter?,letter K\na.png,Which?,k\n"
    (folder / "questions.csv").write_text(rows)
    path = tmp_path / "episodes.jsonl"
    arguments = ["rollout", "--folder", str(folder), "--out", str(path), "--model", "m"]
    arguments += ["--endpoint", f"{faulty}/parsed/v1"]  # its answer is K
    judge = ["--judge", f"{faulty}/judge/v1", "--judge-model", "j"]
    assert main([*arguments, *judge]) == 0
    text = capsys.readouterr().out
    assert (
        "1 of 2 correct, 2 with a zoom" in text
    )  # the judge of the test wants the truth in the answer
    assert text.endswith("j judged 1 answers (0 from the cache); 0 undecided, counted wrong\n")
    verdicts = Path(f"{path}.judge.jsonl").read_text(encoding="utf-8")
    assert json.loads(verdicts)["verdict"] is False
    path.unlink()  # episodes anew, verdicts from the cache
    assert main([*arguments, *judge]) == 0
    assert "j judged 1 answers (1 from the cache)" in capsys.readouterr().out
    assert Path(f"{path}.judge.jsonl").read_text(encoding="utf-8") == verdicts
    assert main(arguments) == 1  # never half with a judge, half without
    assert "holds another run" in capsys.readouterr().err
    assert main([*arguments, "--judge-model", "j"]) == 1
    assert "--judge-model names a model of --judge" in capsys.readouterr().err


def test_rollout_of_this_machine_asks_a_judge_too(faulty, random_eyes, tmp_path, capsys):
    arguments = ["rollout", "--out", str(tmp_path / "e.jsonl"), "--samples", "2"]
    arguments += [
        "--model",
        str(random_eyes),
        "--judge",
        f"{faulty}/judge/v1",
        "--judge-model",
        "j",
    ]
    assert main(arguments) == 0
    assert "j judged " in capsys.readouterr().out
