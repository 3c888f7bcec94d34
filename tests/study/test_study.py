"""study.py: the plan holds every run once, and a killed study goes on."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
from datasets import load_from_disk

from deepeyes_lite.evaluation import evaluate_run
from deepeyes_lite.files import file_lock
from deepeyes_lite.models import load
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.study import run as room
from deepeyes_lite.study.claims import halves, ledger
from deepeyes_lite.study.run import (
    SETS,
    Run,
    plan,
    prepare,
    recorded,
    study,
    sweep_base,
    transfer,
)
from deepeyes_lite.training import HISTORY_COLUMNS, RunConfig, write_history


@pytest.fixture
def base(random_eyes):
    return RunConfig(model=str(random_eyes), steps=2, prompts_per_step=1, num_generations=2)


def test_the_plan_has_every_arm_with_its_seeds_and_both_sides_of_the_sweep(base, tmp_path):
    runs = plan(base, tmp_path)
    assert len({json.dumps(vars(run.config)) for run in runs.values()}) == len(runs)
    for name, seeds in {"conditional": 5, "unconditional": 5, "none": 5}.items():
        found = [run.config for n, run in runs.items() if n.startswith(f"{name}-")]
        assert [config.seed for config in found] == list(range(seeds))
        assert {config.reward for config in found} == {name}
    assert set(VARIANTS) <= {name.rpartition("-")[0] for name in runs}
    sweep = {n: run for n, run in runs.items() if run.config.bonus is not None}
    divisions = {n: sweep.pop(n) for n in [*sweep] if "divided" in n}
    assert sum(n.startswith("sweep") for n in sweep) == 20 and len(sweep) == 40
    assert len(divisions) == 6 and {run.measured for run in divisions.values()} == {"history"}
    assert {bool(run.config.trl) for n, run in divisions.items() if n.startswith("un")} == {True}
    assert len({(run.config.legible_share, run.config.bonus) for run in sweep.values()}) == len(
        sweep
    )
    assert all(run.measured == "history" for run in sweep.values())
    other = plan(replace(base, seed=5), tmp_path)
    assert len(other) == len(runs) and set(other) & set(runs) == set(sweep)
    assert [r.config.seed for n, r in other.items() if n.startswith("none-")] == [5, 6, 7, 8, 9]
    assert sum(n.startswith("data-") for n in runs) == 20
    assert [n for n in runs if n.startswith("l")] == [
        *(f"legible-{arm}-{seed}" for seed in range(5) for arm in ("none", "conditional")),
        *(f"long-{seed}" for seed in range(3)),
    ]


@pytest.fixture
def trained(finished_run, monkeypatch):
    """`train` and the measurements without their cost; what was trained, in order."""
    done = []

    def fake(config, out):
        done.append(out.name)
        if not out.exists():
            shutil.copytree(finished_run, out)
            (out / "config.json").write_text(json.dumps(vars(config)))
            row = dict.fromkeys(HISTORY_COLUMNS, 0.5) | {"n_zoom": 1, "n_direct": 1}
            rows = [{**row, "step": step + 1} for step in range(config.steps)]
            write_history(rows, out / "history.csv")
        return out

    def measure(folder, samples):
        for name in ("evaluation.json", "episodes.csv"):
            (folder / name).write_text("{}")

    monkeypatch.setattr(room, "train", fake)
    monkeypatch.setattr(room, "evaluate_run", measure)
    monkeypatch.setattr(room, "transfer", lambda *a: a[4].write_text("{}"))
    monkeypatch.setattr(room, "sweep_base", lambda *arguments: None)
    return done


def test_a_study_runs_what_is_not_recorded(trained, base, tmp_path, capsys):
    out, records = tmp_path / "out", tmp_path / "records"
    study(out, records, base, only="none-*")
    assert trained == [f"none-{seed}" for seed in range(5)]
    assert "5 runs, 0 of them recorded" in capsys.readouterr().out
    run = plan(base, out / "data")["none-1"]
    files = {path.name for path in (records / "none-1").iterdir()}
    assert files == {*run.files, "commit.txt"} and "transfer.csv" not in files
    assert "torch" in (records / "none-1" / "commit.txt").read_text().splitlines()[1]
    shutil.rmtree(records / "none-1")
    (records / "none-3" / "episodes.csv").unlink()
    study(out, records, base, only="none-*")
    assert trained[5:] == ["none-1", "none-3"]
    assert recorded(records / "none-3", replace_seed(run, 3))
    study(out, records, base, only="none-*")
    assert len(trained) == 7


def test_two_processes_share_the_runs(trained, base, tmp_path, capsys):
    out, records = tmp_path / "out", tmp_path / "records"
    with (
        file_lock(out / ".none-1.lock"),
        file_lock(out / ".none-4.lock"),
    ):  # the other one is at these
        study(out, records, base, only="none-*")
    assert trained == ["none-0", "none-2", "none-3"]
    assert capsys.readouterr().out.endswith("left to another process: none-1, none-4\n")
    study(out, records, base, only="none-*")
    assert trained[3:] == ["none-1", "none-4"]


def test_a_run_that_another_process_has_recorded_meanwhile_is_not_repeated(
    trained, base, tmp_path, monkeypatch
):
    out, records = tmp_path / "out", tmp_path / "records"
    carry_out = room._carry_out

    def busy(run, folder, samples):  # the other process overtakes while the first run is trained
        monkeypatch.setattr(room, "_carry_out", carry_out)
        study(out, records, base, only="iou-[12]")
        carry_out(run, folder, samples)

    monkeypatch.setattr(room, "_carry_out", busy)
    study(out, records, base, only="iou-*")
    assert trained == ["iou-1", "iou-2", "iou-0"]


def replace_seed(run, seed):
    return Run(replace(run.config, seed=seed), run.measured)


def test_a_record_of_other_settings_is_no_record(trained, base, tmp_path):
    out, records = tmp_path / "out", tmp_path / "records"
    study(out, records, base, only="iou-0")
    run = plan(base, out / "data")["iou-0"]
    assert recorded(records / "iou-0", run)
    assert not recorded(records / "iou-0", replace_seed(run, 1))
    longer = Run(replace(run.config, steps=3))
    assert not recorded(records / "iou-0", longer)


def test_a_kill_while_recording_leaves_no_half_record(trained, base, tmp_path, monkeypatch):
    out, records = tmp_path / "out", tmp_path / "records"
    real, calls = shutil.copy, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(room.shutil, "copy", killed)
    with pytest.raises(KeyboardInterrupt):
        study(out, records, base, only="iou-0")
    assert not (records / "iou-0").exists()
    monkeypatch.setattr(room.shutil, "copy", real)
    study(out, records, base, only="iou-0")
    assert (records / "iou-0" / "history.csv").exists() and not list(records.glob("*.tmp"))


def test_transfer_measures_a_model_on_every_set_once(random_eyes, tmp_path):
    path = tmp_path / "records" / "transfer.csv"
    transfer(*load(random_eyes), "base", 2, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [f"{name}: base" for name in (*SETS, "grounding") for _ in range(2)]
    assert [row["condition"] for row in rows] == expected
    path.write_text("kept")
    transfer(*load(random_eyes), "base", 2, path)
    assert path.read_text() == "kept"


def test_a_real_record_fills_the_ledger(finished_run, tmp_path):
    for seed in range(2):
        run = shutil.copytree(finished_run, tmp_path / f"conditional-{seed}")
        evaluate_run(run, 4)
    found = {row["id"]: row for row in ledger(tmp_path)}
    assert found["C1"]["seeds"] == 2 and found["C1"]["verdict"] == "not replicated"
    assert found["C8a"]["verdict"] == "not measured"


def test_the_questions_of_each_selection_are_kept_apart(base, tmp_path):
    prepare(base, tmp_path, n=6)
    sizes = {
        name: len(load_from_disk(tmp_path / name))
        for name in room.SELECTIONS
        if name == "unfiltered"
    }
    assert sizes == {"unfiltered": 6}  # random weights are never right: the others are empty
    assert {path.name for path in tmp_path.iterdir()} >= set(room.SELECTIONS)
    before = (tmp_path / "unfiltered").stat().st_mtime_ns
    prepare(base, tmp_path, n=6)
    assert (tmp_path / "unfiltered").stat().st_mtime_ns == before
    found = json.loads((tmp_path / "selections.json").read_text())
    assert set(found) == set(room.SELECTIONS) and found["both"]["questions"] == 0
    asked = load_from_disk(tmp_path / "unfiltered")
    assert found["unfiltered"]["legible"] == sum(asked["legible"])
    assert found["unfiltered"]["planted"] == sum("planted" in s for s in asked["source"])


def test_the_sweep_is_predicted_from_the_base_model(base, tmp_path):
    path = tmp_path / "records" / "base.json"
    sweep_base(base, path, 2)
    found = json.loads(path.read_text())
    assert [half.share for half in halves(found, 0.9)] == pytest.approx([0.9, 0.1])
    path.write_text("kept")
    sweep_base(base, path, 2)
    assert path.read_text() == "kept"
