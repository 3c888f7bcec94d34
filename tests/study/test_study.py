"""plan.py, run.py: the plan holds every run once, and a killed study goes on."""

import csv
import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from datasets import load_from_disk

from deepeyes_lite.files import file_lock
from deepeyes_lite.models import load
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.study import run as study_run
from deepeyes_lite.study.claims import ledger, question_groups
from deepeyes_lite.study.plan import SEEDS, SELECTIONS, plan
from deepeyes_lite.study.run import SETS, archive, prepare, recorded, study, sweep_base, transfer
from deepeyes_lite.training import RunConfig


@pytest.fixture
def base(random_eyes):
    return RunConfig(model=str(random_eyes), steps=2, prompts_per_step=1, num_generations=2)


def test_the_plan_has_every_variant_with_its_seeds_and_both_sides_of_the_sweep(base, tmp_path):
    runs = plan(base, tmp_path)
    assert len({json.dumps(vars(run.config)) for run in runs.values()}) == len(runs) == 103
    assert set(SEEDS) == set(VARIANTS)
    groups = Counter(run.group for run in runs.values())
    others = {"sweep": 20, "fresh": 20, "divided": 3, "undivided": 3, "long": 3}
    others |= dict.fromkeys(("legible-none", "legible-conditional"), 5)
    assert groups == SEEDS | others | {f"data-{name}": 5 for name in SELECTIONS}
    for name, seeds in SEEDS.items():
        configs = [run.config for run in runs.values() if run.group == name]
        assert [(c.reward, c.seed) for c in configs] == [(name, seed) for seed in range(seeds)]
    sweep = [run for run in runs.values() if run.group in ("sweep", "fresh")]
    assert len({(run.config.legible_share, run.config.bonus) for run in sweep}) == 40
    assert {run.measured for run in sweep} == {"history"}
    stock = {name for name, run in runs.items() if run.config.trl}
    assert stock == {f"undivided-{seed}" for seed in range(3)}
    other = plan(replace(base, seed=5), tmp_path)
    assert set(other) & set(runs) == {n for n, r in runs.items() if r in sweep}
    assert [r.config.seed for r in other.values() if r.group == "none"] == [5, 6, 7, 8, 9]


@pytest.fixture
def trained(finished_run, monkeypatch):
    """`train` and the measurements without their cost; what was trained, in order."""
    names = []

    def train(config, out, dataset, callbacks):
        names.append(out.name)
        if not out.exists():
            shutil.copytree(finished_run, out)
            (out / "config.json").write_text(json.dumps(vars(config)))

    def measure(folder, dataset):
        for name in ("evaluation.json", "episodes.csv"):
            (folder / name).write_text("{}")

    monkeypatch.setattr(study_run, "train", train)
    monkeypatch.setattr(study_run, "evaluate_run", measure)
    return names


@pytest.fixture
def folders(tmp_path):
    """Where a study trains, and where it keeps its records."""
    return tmp_path / "out", tmp_path / "records"


@pytest.mark.train
def test_a_study_runs_what_is_not_recorded(trained, base, folders, capsys):
    out, records = folders
    study(out, records, base, only="none-*")
    assert trained == [f"none-{seed}" for seed in range(5)]
    assert "5 runs, 0 of them recorded" in capsys.readouterr().out
    runs = plan(base, out / "data")
    files = {path.name for path in (records / "none-1").iterdir()}
    assert files == {*runs["none-1"].files, "run.json"} and "transfer.csv" not in files
    origin = json.loads((records / "none-1" / "run.json").read_text())
    assert origin["group"] == "none" and origin["commit"] and "torch" in origin["machine"]
    shutil.rmtree(records / "none-1")
    (records / "none-3" / "episodes.csv").unlink()
    for _ in range(2):  # the second time, nothing is left to do
        study(out, records, base, only="none-*")
        assert trained[5:] == ["none-1", "none-3"]
    assert recorded(records / "none-3", runs["none-3"])
    assert not recorded(records / "none-3", runs["none-1"])  # another seed
    longer = replace(runs["none-3"].config, steps=3)
    assert not recorded(records / "none-3", replace(runs["none-3"], config=longer))


@pytest.mark.train
def test_two_processes_share_the_runs(trained, base, folders, capsys, monkeypatch):
    out, records = folders
    with file_lock(out / ".none-1.lock"), file_lock(out / ".none-4.lock"):  # the other one's
        study(out, records, base, only="none-*")
    assert trained == ["none-0", "none-2", "none-3"]
    assert capsys.readouterr().out.endswith("left to another process: none-1, none-4\n")
    study(out, records, base, only="none-*")
    assert trained[3:] == ["none-1", "none-4"]
    train = study_run.train

    def overtaken(*arguments):  # the other process is done while the first run is trained
        monkeypatch.setattr(study_run, "train", train)
        study(out, records, base, only="iou-[12]")
        train(*arguments)

    monkeypatch.setattr(study_run, "train", overtaken)
    study(out, records, base, only="iou-*")
    assert trained[5:] == ["iou-1", "iou-2", "iou-0"]


def test_a_kill_while_recording_leaves_no_half_record(finished_run, tmp_path):
    with pytest.raises(FileNotFoundError):
        archive(finished_run, tmp_path / "record", ["config.json", "missing.csv"], "none")
    assert not (tmp_path / "record").exists()
    archive(finished_run, tmp_path / "record", ["config.json"], "none")
    names = {path.name for path in (tmp_path / "record").iterdir()}
    assert names == {"config.json", "run.json"} and not (tmp_path / "record.tmp").exists()


@pytest.mark.train
def test_a_real_run_is_trained_measured_and_recorded(base, tmp_path):
    study(tmp_path / "out", tmp_path / "records", base, only="none-[01]", samples=2)
    for name in ("none-0", "none-1"):
        assert recorded(tmp_path / "records" / name, plan(base, tmp_path)[name])
        assert list((tmp_path / "out" / name / "snapshots").glob("*.jsonl"))
    rows = {row["id"]: row for row in ledger(tmp_path / "records")}
    assert rows["C5c"]["seeds"] == 2 and rows["C5b"]["verdict"] == "not measured"


def test_the_questions_of_each_selection_are_kept_apart(base, tmp_path):
    prepare(base, tmp_path, n=6)
    before = (tmp_path / "unfiltered").stat().st_mtime_ns
    prepare(base, tmp_path, n=6)
    assert (tmp_path / "unfiltered").stat().st_mtime_ns == before
    assert {path.name for path in tmp_path.iterdir()} >= set(SELECTIONS)
    holds = json.loads((tmp_path / "selections.json").read_text())
    # Random weights are never correct: the other selections are empty.
    assert set(holds) == set(SELECTIONS) and holds["both"]["questions"] == 0
    asked = load_from_disk(tmp_path / "unfiltered")
    planted = sum("planted" in source for source in asked["source"])
    expected = {"questions": 6, "legible": sum(asked["legible"]), "planted": planted}
    assert holds["unfiltered"] == expected


def test_what_is_measured_once_is_kept(base, random_eyes, tmp_path):
    path = tmp_path / "records" / "base.json"
    sweep_base(base, path, 2)
    kinds = question_groups(json.loads(path.read_text()), 0.9)
    assert [kind.share for kind in kinds] == pytest.approx([0.9, 0.1])
    path.write_text("kept")
    sweep_base(base, path, 2)
    assert path.read_text() == "kept"
    path = tmp_path / "records" / "transfer.csv"
    transfer(*load(random_eyes), "base", 2, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [f"{name}: base" for name in (*SETS, "grounding") for _ in range(2)]
    assert [row["condition"] for row in rows] == expected
    path.write_text("kept")
    transfer(*load(random_eyes), "base", 2, path)
    assert path.read_text() == "kept"
