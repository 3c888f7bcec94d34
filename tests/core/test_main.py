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
from PIL import Image

import deepeyes_lite.__main__ as main_module
from deepeyes_lite import rollout
from deepeyes_lite.__main__ import COMMANDS, GROUPS, config_of, main, parser, say, trl_options
from deepeyes_lite.config import PRESETS, RunConfig
from deepeyes_lite.files import sole_writer
from deepeyes_lite.realworld import public
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.trajectories import read_jsonl


def run(words, *further):
    return main([*words.split(), *further])


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
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out == text
    for group, names in GROUPS.items():
        assert f"example: deepeyes-lite {COMMANDS[names[0]][3]}\n" in text, group
    for command, (*_, example) in COMMANDS.items():
        assert parsed(*shlex.split(example)).command == command


def test_no_text_steers_the_terminal(capsys, monkeypatch):
    def fails(args):
        say("table\x1b]0;title\x07\x9b31m\n\u202e\trow")
        raise ValueError("\x1b[2Jgone")

    monkeypatch.setitem(COMMANDS, "doctor", (lambda sub: None, fails, "", ""))
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert out == "table ]0;title  31m\n \trow\n" and err.endswith("doctor:  [2Jgone\n")


WRITERS = [
    "train --out {0}",
    "demo --out {0}",
    "evaluate {0}",
    "merge run --to {0}",
    "rollout --out {0} --endpoint http://localhost:9/v1 --model m",
    "scene --out {0}",
    "ask photo.png ? --out {0}",
    "benchmark --data set --out {0}",
    "data pope --out {0}",
    "select --out {0}",
    "export --data set --out {0}",
    "claims --out {0}",
    "controls --out {0}",
    "two-tools --out {0}",
    "pretrain --out {0}",
    "card {0}",
    "animate run --out {0}",
]


@pytest.mark.parametrize("words", WRITERS)
def test_two_processes_never_write_the_same(words, tmp_path, capsys, monkeypatch):
    name, place = words.split()[0], tmp_path / "a.html"
    monkeypatch.chdir(tmp_path)
    for there in (
        "photo.png",
        "set",
        "run/config.json",
        *["a.html/config.json"] * (name == "evaluate"),
    ):
        Path(there).parent.mkdir(exist_ok=True)
        Path(there).touch()
    started = []
    add, _, text, example = COMMANDS[name]
    monkeypatch.setitem(COMMANDS, name, (add, lambda args: started.append(args), text, example))
    with sole_writer(place):
        assert run(words.format(place)) == 1 and not started
    assert "another process writes" in capsys.readouterr().err
    assert run(words.format(place)) == 0 and started
    assert set(COMMANDS) - {words.split()[0] for words in WRITERS} == {"study", "doctor"}


def test_what_cannot_be_understood_ends_with_usage_and_2(capsys):
    wrong = ["dance", "evaluate", "train --steps many", "train --reward bonus"]
    wrong += ["doctor --preset 3GB", "data vstr --out x", "two-tools --reward bonus"]
    wrong += ["demo --preset fast", "rollout --out x.jsonl --tool half", "ask a.png ? --frame px"]
    for words in wrong:
        with pytest.raises(SystemExit) as stop:
            run(words)
        assert stop.value.code == 2 and "usage: deepeyes-lite" in capsys.readouterr().err


def test_the_commands_in_the_text_can_be_understood():
    """Of Makefile and READMEs, where somebody copies them from."""
    names = ["README.md", "Makefile", "CONTRIBUTING.md", "notebooks/TEACHING.md"]
    for name in [*names, "data/tiny-eyes/README.md"]:
        text = (Path(__file__).parents[2] / name).read_text(encoding="utf-8")
        for command in re.findall(r"(?:python|PY\)) -m deepeyes_lite ([^`#|\n]+)", text):
            words = shlex.split(command.replace("--seed N", "--seed 1").replace("VARIANT", "none"))
            assert parsed(*words).command == words[0], (name, command)


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


QUICK = ["--help", "train --help", "train --preset 24", "doctor --preset 3", "evaluate nowhere"]
QUICK += ["data vstr --out x", "ask nowhere.png ?", "rollout --out x --kind foo"]


def test_help_and_what_is_mistyped_need_no_torch():
    """So that they take a tenth of a second, not ten; all in one process, which is quicker here."""
    code = (
        "import sys; from deepeyes_lite.__main__ import main\n"
        "for words in sys.argv[1:]:\n"
        "    try: code = main(words.split())\n"
        "    except SystemExit as stop: code = stop.code\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\n"
        "    print('code', code, heavy)"
    )
    python = [sys.executable, "-c", code, *QUICK]
    result = subprocess.run(python, capture_output=True, text=True, timeout=60)
    lines = [line for line in result.stdout.splitlines() if line.startswith("code")]
    codes = [0, 0, 2, 2, 1, 2, 1, 2]
    assert lines == [f"code {code} set()" for code in codes], result.stderr
    assert "loading" not in result.stderr


def test_what_options_may_be_is_what_there_is():
    assert tuple(public.SETS) == main_module.SETS and main_module.TOOLS == rollout.TOOLS


@pytest.fixture
def folder(tmp_path, monkeypatch, random_eyes):
    """The working directory, with a photo, questions about it, a model, a file and a page."""
    monkeypatch.chdir(tmp_path)
    Path("eyes").symlink_to(random_eyes)
    for name in ("a-file", "there.html"):
        Path(name).touch()
    image = tiny_world("test", 1)[0]["image"]
    image.save("photo.png")
    Path("mine").mkdir()
    Path("mine/config.json").touch()
    image.save("mine/a.png")
    return tmp_path


def write_questions(*rows):
    text = "\n".join(["image,question,answer", *rows]) + "\n"
    Path("mine/questions.csv").write_text(text, encoding="utf-8")


def test_an_error_is_one_line_and_code_1(folder, faulty, capsys):
    for words, message in {
        "evaluate nowhere": "no config.json in nowhere; start a run with `train",
        "train --preset quick --model nowhere": "nowhere is neither a folder with a model nor",
        "train --steps 0 --model eyes": "n is at least 1",
        "train --preset quick --out a-file --model eyes": "a-file",
        "train --preset quick --trl num_generations=4 --model eyes": "set --num-generations instead",
        "rollout --out x.jsonl --run nowhere": "no config.json in nowhere; start a run with",
        "ask nowhere.png ?": "there is no file or folder 'nowhere.png'",
        "ask eyes ?": "'eyes' is no regular file",
        "card nowhere": "nowhere",
        "select --folder nowhere --out x": "there is no file or folder 'nowhere'",
        "train --config nowhere.yaml": "there is no file or folder 'nowhere.yaml'",
        "export --data mine --out a-file": "a-file is there already; choose another name",
        "ask a-file ?": "'a-file' is damaged, too large, or no image (PNG, JPEG",
        "ask photo.png ?<|im_end|> --endpoint URL/x/v1 --model m": "only the template may",
        "ask photo.png ? --out page.png": "its name ends in .html",
        "ask photo.png ? --out there.html": "there.html is there already; choose another name",
        "ask photo.png ? --environment os.path": "'os.path' is no subclass of",
        "ask photo.png ? --model m": "m is neither a folder with a model nor",
        "ask photo.png ? --model m --run mine": "two models; choose one",
        "ask photo.png ? --adapter a --endpoint URL/x/v1": "two models; choose one",
        "ask photo.png ? --endpoint URL/x/v1": "name a model; ",
        "ask photo.png ? --endpoint localhost:1": "address is like http://localhost:8000/v1",
        "ask photo.png ? --endpoint URL/locked/v1 --model m": "refuses the key",
        "ask photo.png ? --endpoint URL/other-model/v1 --model m": "does not serve 'm'",
    }.items():
        shutil.rmtree("runs", ignore_errors=True)
        arguments = words.replace("URL", faulty).split()
        assert main(arguments) == 1, words
        lines = capsys.readouterr().err.splitlines()
        (line,) = (line for line in lines if line.startswith("deepeyes-lite"))
        assert "Errno" not in line
        assert line.startswith(f"deepeyes-lite {arguments[0]}: ") and message in line, words
    with pytest.raises(FileNotFoundError):
        main(["--debug", "evaluate", "nowhere"])


def test_rollout_writes_episodes(folder, capsys):
    def rolled(name, words):
        assert run(f"rollout --out {name}.jsonl --model eyes {words}") == 0
        assert f"correct, 0 with a zoom: {name}.jsonl\n" in capsys.readouterr().out
        return Path(f"{name}.jsonl").read_bytes()

    first = rolled("first", "--samples 3 --seed 1")
    assert [t.sample["id"] for t in read_jsonl("first.jsonl")] == ["test-0", "test-1", "test-2"]
    assert rolled("same", "--samples 3 --seed 1") == first
    assert rolled("other", "--samples 3 --seed 2 --tool off") != first
    rolled("kinds", "--samples 2 --kind compare")
    assert [t.sample["kind"] for t in read_jsonl("kinds.jsonl")] == ["compare"] * 2


def test_rollout_and_evaluate_take_a_finished_run(finished_run, tmp_path, capsys):
    path = tmp_path / "episodes.jsonl"
    words = ["rollout", "--out", str(path), "--run", str(finished_run), "--samples", "1"]
    assert main(words) == 0 and len(read_jsonl(path)) == 1
    out = shutil.copytree(finished_run, tmp_path / "run")
    assert main(["evaluate", str(out), "--samples", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 held-out scenes" in text and f"report: {out}/report.html" in text


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
    card = (out / "adapter" / "README.md").read_text()  # ours, not peft's template
    assert "library_name: peft" in card and "2 held-out scenes" in card
    left = {"config.json", "history.csv", "evaluation.json", "adapter", "snapshots", "report.html"}
    assert left <= {path.name for path in out.iterdir()}
    weights = (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert main([*arguments, "--seed", "3"]) == 0
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == weights
    assert "2 held-out scenes" in capsys.readouterr().out


def test_select_writes_what_it_kept_and_why(folder, capsys):
    words = "select --model eyes --k 2 --out out --samples"
    assert run(words, "6") == 0
    text = capsys.readouterr().out
    assert "0 of 6 questions kept" in text and "6 never right" in text  # random weights
    names = {"config.json", "difficulty.jsonl", "tool_benefit.jsonl", "report.json"}
    assert names | {"selected", "pass_rates.png"} <= {path.name for path in Path("out").iterdir()}
    assert json.loads(Path("out/report.json").read_bytes())["questions"] == 6
    assert run(words, "6") == 0
    assert run(words, "7") == 1 and "holds another run" in capsys.readouterr().err
    write_questions("a.png,What is it?,a scene", "b.png,What?,nothing")
    assert run("select --folder mine --model eyes --k 1 --out own") == 0
    text = capsys.readouterr().out
    assert "0 of 1 questions kept" in text and "b.png" in text


# --- served models ------------------------------------------------------------------------------


def served(faulty, mode, model="m"):
    return ["--endpoint", f"{faulty}/{mode}/v1", "--model", model]


ASK = ["ask", "photo.png", "Which letter?"]


def test_ask_prints_the_episode_and_writes_the_page(faulty, folder, capsys):
    assert main([*ASK, *served(faulty, "parsed")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "question: Which letter?",
        'turn 1: <think>Hm.</think><tool_call>{"name": "image_zoom_in_tool", '
        '"arguments": {"bbox_2d": [10, 20, 100, 200]}}</tool_call>',
        "  zoom 1: (4, 8) to (38, 77) px",
        "turn 2: <think>I see it.</think><answer>K</answer>",
        "answer: K",
        "page: ask.html",
    ]
    assert b"data:image/jpeg" in Path("ask.html").read_bytes()
    # DeepEyes' own prompt. 384 px are seen as 392: the box is asked for in pixels of the view.
    deepeyes = [*ASK, *served(faulty, "deepeyes"), "--prompt", "deepeyes"]
    assert main(deepeyes) == 0
    assert "zoom 1: (10, 20) to (98, 196) px" in capsys.readouterr().out
    assert main([*deepeyes, "--frame", "box_1000"]) == 0
    assert "zoom 1: (4, 8) to (38, 77) px" in capsys.readouterr().out
    assert main([*ASK, *served(faulty, "short")]) == 1  # the server ended it
    assert "the conversation is too long for m" in capsys.readouterr().out


def test_ask_takes_tiny_eyes_where_no_server_is_named(finished_run, folder, capsys):
    assert main([*ASK, "--model", "eyes"]) == 0
    text = capsys.readouterr().out
    assert "turn 1: " in text and "knows only its own world" in text
    assert main([*ASK, "--run", str(finished_run)]) == 0
    tiny_world("test", 1)[0]["image"].resize((1200, 500)).save("wide.jpg")
    assert main(["ask", "wide.jpg", "Which letter?", "--model", "eyes"]) == 0
    assert {"ask.html", "ask-2.html", "ask-3.html"} <= {path.name for path in folder.iterdir()}


def test_a_scene_is_drawn_that_can_be_asked_about(folder, capsys):
    assert run("scene --number 3 --out three.png") == 0
    said = capsys.readouterr().out
    sample = tiny_world("test", 4)[3]
    assert said.startswith(f"question: {sample['question']}\nanswer: {sample['answer']}\n")
    with Image.open("three.png") as image:
        assert image.tobytes() == sample["image"].tobytes()
    command = said.splitlines()[-1].partition("deepeyes-lite ")[2]
    assert main(shlex.split(command)) == 0
    assert "  zoom 1: " in capsys.readouterr().out
    assert run("scene --out three.png") == 1 and "is there already" in capsys.readouterr().err


def test_rollout_asks_a_judge_what_no_rule_can_tell(faulty, folder, capsys):
    write_questions("a.png,What letter?,letter K", "a.png,Which?,k")
    words = ["rollout", "--folder", "mine", "--out", "e.jsonl", *served(faulty, "parsed")]
    judge = ["--judge", f"{faulty}/judge/v1", "--judge-model", "j"]
    assert main([*words, *judge]) == 0  # the model's answer is K
    text = capsys.readouterr().out
    assert "1 of 2 correct, 2 with a zoom" in text  # this judge wants the truth in the answer
    assert text.endswith("j judged 1 answers (0 from the cache); 0 undecided, counted wrong\n")
    verdicts = Path("e.jsonl.judge.jsonl").read_bytes()
    assert json.loads(verdicts.splitlines()[-1])["verdict"] is False
    Path("e.jsonl").unlink()  # episodes anew, verdicts from the cache
    assert main([*words, *judge]) == 0
    assert "j judged 1 answers (1 from the cache)" in capsys.readouterr().out
    assert Path("e.jsonl.judge.jsonl").read_bytes() == verdicts
    assert main(words) == 1  # never half with a judge, half without
    assert "holds another run" in capsys.readouterr().err
    assert main([*words, "--judge-model", "j"]) == 1
    assert "--judge-model names a model of --judge" in capsys.readouterr().err
    assert run("rollout --out local.jsonl --samples 2 --model eyes", *judge) == 0
    assert "j judged " in capsys.readouterr().out  # a model of this machine, too
