"""evaluation.py: figures with intervals, paired tests, and an evaluation that a kill does not lose."""

import csv
import json
import math
import shutil

import numpy as np
import pytest

from deepeyes_lite import evaluation, prompts
from deepeyes_lite.evaluation import (
    CONDITIONS,
    average,
    evaluate_run,
    interval,
    paired_difference,
    share,
    summarise,
    table,
)
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import held_out
from deepeyes_lite.trajectories import Trajectory, Turn, read_jsonl

CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})


# --- figures ------------------------------------------------------------------------------------


def test_share_has_wilson_s_interval():
    known = {(80, 100): (0.7112, 0.8666), (0, 10): (0.0, 0.2775), (10, 10): (0.7225, 1.0)}
    known[1, 2] = (0.0945, 0.9055)
    for (k, n), ends in known.items():
        figure = share(k, n)
        assert (figure["mean"], figure["n"]) == (k / n, n)
        assert (figure["low"], figure["high"]) == pytest.approx(ends, abs=1e-4)
    for n in range(1, 400):
        for k in {0, 1, n // 2, n - 1, n}:
            figure = share(k, n)
            assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1


def test_average_has_a_bootstrap_interval_that_narrows():
    rng = np.random.default_rng(0)
    few, many = (average(rng.normal(5, 1, n).tolist()) for n in (25, 2500))
    for figure, n in ((few, 25), (many, 2500)):
        assert figure["low"] < figure["mean"] < figure["high"] and figure["n"] == n
        width = figure["high"] - figure["low"]
        assert width == pytest.approx(2 * 1.96 / math.sqrt(n), rel=0.4)
    assert many["low"] < 5 < many["high"]
    assert average([1.0, 2.0, 4.0]) == average([1.0, 2.0, 4.0])
    assert average([3.0]) == {"mean": 3.0, "low": 3.0, "high": 3.0, "n": 1}


def test_a_figure_of_nothing_is_unknown():
    for figure in (share(0, 0), average([])):
        assert figure["n"] == 0 and all(math.isnan(figure[k]) for k in ("mean", "low", "high"))
        assert interval(figure) == "-"


def episode(number=0, correct=False, legible=0, boxes=(), formed=True, targets=((0, 0, 10, 10),)):
    return Trajectory(
        sample={"id": f"test-{number}", "legible": legible, "boxes_px": list(targets)},
        turns=[Turn("x", list(boxes))],
        correct=correct,
        well_formed=formed,
    )


def test_summary_of_a_condition():
    hit, miss = (0, 0, 10, 10), (50, 50, 60, 60)
    episodes = [
        episode(correct=True, legible=1),
        episode(correct=False, legible=1, boxes=[hit]),
        episode(correct=True, legible=0, boxes=[miss, hit]),
        episode(correct=False, legible=0, formed=False),
        episode(correct=True, legible=-1, boxes=[miss], targets=()),
    ]
    shares = {  # of all, of the legible, of the illegible
        "accuracy": ((3 / 5, 5), (1 / 2, 2), (1 / 2, 2)),
        "call_rate": ((3 / 5, 5), (1 / 2, 2), (1 / 2, 2)),
        "p_zoom": ((2 / 3, 3), (0.0, 1), (1.0, 1)),
        "p_direct": ((1 / 2, 2), (1.0, 1), (0.0, 1)),
    }
    means = {"format": (4 / 5, 5), "calls_per_episode": (4 / 5, 5)}
    means["call_iou"] = (2 / 3, 3)  # every answered call where the target is known
    for name, values in shares.items():
        means |= zip((name, f"{name}_legible", f"{name}_illegible"), values)
    assert {k: (v["mean"], v["n"]) for k, v in summarise(episodes).items()} == {
        k: (pytest.approx(mean), n) for k, (mean, n) in means.items()
    }


def test_a_paired_difference_has_a_sign_and_a_p():
    rng = np.random.default_rng(1)
    rows = [episode(i, correct=i % 2 == 0) for i in range(20)]
    figure = paired_difference(rows, rows)
    high = share(0, 20)["high"]  # of 0 in 20 that differ
    assert [figure[name] for name in ("mean", "low", "high", "p")] == [0, -high, high, 1]
    worse, better = ([episode(i, correct=i < n) for i in range(60)] for n in (10, 40))
    gain, loss = paired_difference(worse, better), paired_difference(better, worse)
    assert gain["mean"] == pytest.approx(0.5) == -loss["mean"]
    assert gain["low"] > 0.3 and gain["p"] < 0.01 and loss["p"] < 0.01
    a, b = ([episode(i, correct=rng.random() < 0.5) for i in range(60)] for _ in range(2))
    assert paired_difference(a, b)["p"] > 0.05  # by chance
    for a, b in [([0, 1], [1, 0]), ([0, 1], [0]), ([0], [0, 1]), ([0, 1], [0, 2])]:
        with pytest.raises(ValueError, match="the same samples in the same order"):
            paired_difference([episode(i) for i in a], [episode(i) for i in b])


# --- a run's evaluation -------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch, processor):
    """Policies of every condition are scripts; a list of the conditions that were rolled out."""
    done = []

    def fake(rows, policy, tool, seed, title):
        truths = {row["id"]: row["answer"] for row in rows}
        done.append(tool)
        weights = "trained" if tool != "on" or "on" in done[:-1] else "base"
        script = {
            id_: [prompts.answer("!", truth if i % 2 else "?")]
            if weights == "base" or tool == "off"
            else [CALL, prompts.answer("!", truth)]
            for i, (id_, truth) in enumerate(truths.items())
        }
        policy = ScriptedPolicy(processor, script)
        return rollout(rows, policy, tool=tool, seed=seed, progress=False)

    monkeypatch.setattr(evaluation, "rollout", fake)
    return done


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_every_condition_is_evaluated_on_the_same_scenes(run, scripted):
    report, scenes = evaluate_run(run, held_out(6)), held_out(6)
    assert scripted == ["on", "on", "off", "blank", "other"]
    assert json.loads((run / "evaluation.json").read_text()).keys() == report.keys()
    assert list(report["conditions"]) == list(CONDITIONS)
    files = {path.stem: read_jsonl(path) for path in (run / "trajectories").iterdir()}
    controls = ["trained-blank-crops", "trained-other-crops", "trained-tool-off"]
    assert sorted(files) == ["base", "trained", *controls]
    for episodes in files.values():
        assert [t.sample["id"] for t in episodes] == scenes["id"][:]
    means = {name: f["accuracy"]["mean"] for name, f in report["conditions"].items()}
    assert means == dict(zip(CONDITIONS, (0.5, 1.0, 0.5, 1.0, 1.0)))
    assert report["conditions"]["trained"]["call_rate"]["mean"] == 1.0
    with (run / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["condition"] for row in rows] == [name for name in CONDITIONS for _ in range(6)]
    assert [row["id"] for row in rows] == scenes["id"][:] * len(CONDITIONS)
    assert [int(row["legible"]) for row in rows] == scenes["legible"][:] * len(CONDITIONS)
    assert [row["correct"] for row in rows[:12]] == ["0", "1"] * 3 + ["1"] * 6
    assert all(row["calls"] == "0" and float(row["best_iou"] or 0) == 0 for row in rows[:6])
    assert all(row["calls"] == "1" and 0 <= float(row["best_iou"]) <= 1 for row in rows[6:12])
    pairs = report["paired_accuracy"]
    assert list(pairs) == [f"{name} minus base" for name in list(CONDITIONS)[1:]]
    assert pairs["trained minus base"]["mean"] == 0.5
    assert not list(run.rglob("*.tmp"))
    lines = table(report).splitlines()
    assert len(lines) == 7 and "illegible" in lines[0] and len(set(map(len, lines[:6]))) == 1
    assert all(line.startswith(name) for line, name in zip(lines[1:6], CONDITIONS))
    assert "50 % [19, 81]" in lines[1] and lines[1].endswith("-")  # no call, so no IoU
    assert "100 % [61, 100]" in lines[2] and "1.00" in lines[2]
    assert lines[6].startswith("6 held-out scenes; 95 % intervals")


def test_a_killed_evaluation_goes_on(run, scripted):
    undisturbed = evaluate_run(run, held_out(4))
    (run / "evaluation.json").unlink()
    (run / "trajectories" / "trained-blank-crops.jsonl").unlink()
    (run / "trajectories" / "trained-tool-off.jsonl.tmp").write_text("{half")
    again = evaluate_run(run, held_out(4))
    assert scripted == ["on", "on", "off", "blank", "other", "blank"]
    assert repr(again) == repr(undisturbed)
    assert repr(evaluate_run(run, held_out(4))) == repr(undisturbed) and len(scripted) == 6
    report = evaluate_run(run, held_out(5))  # episodes on other scenes are made anew
    assert len(scripted) == 11 and report["samples"] == 5
    assert report["conditions"]["base"]["accuracy"]["n"] == 5
    path = run / "trajectories" / "trained.jsonl"
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(ValueError, match="trained.jsonl, line 6: not an episode"):
        evaluate_run(run, held_out(5))


def test_a_variant_without_a_tool_is_asked_without_one(run, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "reward": "text_only"}))
    asked = []

    def watched(rows, policy, tool, seed, title):
        asked.append((policy.tools is not None, tool))
        return rollout(rows, policy, tool, seed, progress=False)

    monkeypatch.setattr(evaluation, "rollout", watched)
    report = evaluate_run(run, held_out(2))
    assert asked == [(True, "on"), (False, "off")]
    assert list(report["conditions"]) == ["base", "trained"]
    assert table(report).count("\n") == 3


def test_what_cannot_be_evaluated_is_refused_before_anything_is_rolled_out(run, scripted, tmp_path):
    with pytest.raises(ValueError, match="two questions are the least.*got 1"):
        evaluate_run(run, held_out(1))
    with pytest.raises(FileNotFoundError, match="no config.json in .*start a run with"):
        evaluate_run(tmp_path, held_out(2))
    shutil.rmtree(run / "adapter")
    with pytest.raises(FileNotFoundError, match="no adapter in .*finish the run with"):
        evaluate_run(run, held_out(2))
    assert scripted == []
