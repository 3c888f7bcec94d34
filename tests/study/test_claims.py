"""claims.py, figures.py: the ledger holds what is in the records, and says so when it is not."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepeyes_lite.__main__ import main
from deepeyes_lite.evaluation import (
    EPISODE_COLUMNS,
    NotMeasured,
    bootstrap_seeds_and_scenes,
    t_interval,
)
from deepeyes_lite.study.claims import CLAIMS, ledger, predictions, table
from deepeyes_lite.study.figures import forest, variant_curves
from deepeyes_lite.study.records import load_records, load_sweep_base
from deepeyes_lite.training import HISTORY_COLUMNS, write_history

N = 60


def make(folder, name, group, accuracy=(), calls=lambda step: 0.5, iou=lambda step: 0.3, **config):
    """A record whose conditions have these chances of a correct answer on illegible details."""
    run = folder / name
    run.mkdir(parents=True)
    config = {"seed": 0, "legible_share": 0.5, "bonus": None, **config}
    (run / "config.json").write_text(json.dumps(config))
    (run / "run.json").write_text(json.dumps({"group": group, "machine": "CPU"}))
    row = {**dict.fromkeys(HISTORY_COLUMNS, 0.5), "n_zoom": 1, "n_direct": 1}
    rows = [
        {**row, "step": step, "best_iou": iou(step)}
        | dict.fromkeys(("call_rate", "calls_per_episode"), calls(step))
        for step in range(1, 41)
    ]
    write_history(rows, run / "history.csv")
    rng = np.random.default_rng([config["seed"], len(name)])
    lines = [EPISODE_COLUMNS]
    for condition, chance in dict(accuracy).items():
        used = int(condition != "base")
        for i in range(N):  # every other scene is legible, and answered correctly
            correct = int(i % 2 or rng.random() < chance)
            lines.append([condition, f"test-{i}", i % 2, correct, used, "0.5" * used])
    with (run / "episodes.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)


@pytest.fixture
def records(tmp_path):
    good = {"base": 0.1, "trained": 0.9, "trained, tool off": 0.0, "trained, blank crops": 0.1}
    good |= {"trained, other crops": 0.1, "chart: base": 0.5, "chart: trained": 0.5}
    weak = {"base": 0.1, "trained": 0.4}
    for seed in range(3):
        rising, better = (lambda s: min(1, s / 20)), (lambda s: s / 50)
        make(tmp_path, f"conditional-{seed}", "conditional", good, rising, better, seed=seed)
        make(tmp_path, f"unconditional-{seed}", "unconditional", weak, seed=seed)
        make(tmp_path, f"none-{seed}", "none", weak, lambda s: 0.5 * 0.9**s, seed=seed)
    ends = [("sweep", 0.1, 0.9), ("sweep", 0.9, 0.1), ("fresh", 0.2, 0.9), ("fresh", 0.85, 0.8)]
    for group, share, after in ends:
        world = {"legible_share": share, "bonus": 0.0}
        make(tmp_path, f"{group}-{share}", group, calls=lambda s, after=after: after, **world)
    means = {"call_rate": (0.3, 0.3), "p_zoom": (0.4, 0.4), "p_direct": (0.9, 0.1)}
    halves = [(name, half) for name in means for half in ("legible", "illegible")]
    base = {f"{name}_{half}": {"mean": means[name][half != "legible"]} for name, half in halves}
    (tmp_path / "sweep-base.json").write_text(json.dumps(base))
    return tmp_path


def test_the_ledger_says_what_the_records_hold(records):
    rows = {row["id"]: row for row in ledger(records)}
    verdicts = {id: row["verdict"] for id, row in rows.items()}
    for id in ("C1", "C2", "C4", "C5a", "C5c", "C10a", "C10b", "C10c"):
        assert verdicts[id] == "replicated", id
    assert verdicts["C5b"] == verdicts["C9b"] == "not replicated"
    assert verdicts["C3a"] == "not replicated"  # the calls stay at their peak
    assert verdicts["C6"] == verdicts["C7a"] == verdicts["C8a"] == "not measured"
    assert rows["C1"]["effect"] == pytest.approx(0.8, abs=0.15)
    assert (rows["C1"]["n"], rows["C1"]["seeds"]) == (N // 2, 3)
    assert rows["C1"]["low"] < rows["C1"]["effect"] < rows["C1"]["high"]
    assert rows["C2"]["effect"] == 1.0
    assert rows["C11a"]["hits"] == 2
    assert (rows["C11b"]["n"], rows["C11c"]["n"]) == (2, 2)
    text = table(list(rows.values()))
    assert text.count("\n") == len(CLAIMS) + 1 and "not measured" in text
    assert json.loads(json.dumps(list(rows.values()))) == list(rows.values())
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    for seed in (1, 2):  # a single run is no replication
        shutil.rmtree(records / f"unconditional-{seed}")
    rows = {row["id"]: row for row in ledger(records)}
    assert rows["C5a"]["verdict"] == rows["C5b"]["verdict"] == "not measured"
    assert rows["C1"]["seeds"] == 3
    # A broken record is not taken for a missing one.
    (records / "sweep-0.1" / "run.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        ledger(records)


def test_predictions_compare_the_bonus_with_the_line(records):
    runs, base = load_records(records), load_sweep_base(records)
    rows = {(row["group"], row["share"]): row for row in predictions(runs, base)}
    low, high = rows["sweep", 0.1], rows["sweep", 0.9]
    assert low["least_bonus"] == pytest.approx(-0.44) and high["least_bonus"] == pytest.approx(0.84)
    assert low["first_order"] and low["grew"] and not high["first_order"] and not high["grew"]
    assert low["by_group"] and low["race"] and low["expected"] > low["before"] == pytest.approx(0.3)
    assert predictions(runs, {}) == predictions({}, base) == []
    # The race is fitted to the sweep alone.
    del runs["fresh-0.85"]
    for row in predictions(runs, base):
        assert row == rows[row["group"], row["share"]]
    del runs["sweep-0.1"], runs["sweep-0.9"]
    assert predictions(runs, base) == []


def test_an_interval_of_many_seeds_holds_the_truth():
    for shift in (0.0, 0.3):
        rng, held = np.random.default_rng(1), 0
        for trial in range(30):
            seeds = [
                shift + 0.1 * rng.standard_normal() + rng.standard_normal(40) for _ in range(6)
            ]
            figures = bootstrap_seeds_and_scenes(seeds, seed=trial)
            held += figures["low"] <= shift <= figures["high"]
        assert held >= 25


def test_three_seeds_are_less_sure_than_a_bootstrap_of_them_says():
    figures = t_interval([0.1, 0.2, 0.9])  # all above zero
    assert figures["low"] < 0 < figures["effect"] and figures["p"] > 0.05
    same = t_interval([0.4, 0.4])
    assert (same["low"], same["high"], same["p"]) == (0.4, 0.4, 0.0)
    with pytest.raises(NotMeasured, match="no interval"):
        t_interval([0.3])


def test_variants_are_told_apart_without_colour(records):
    history = load_records(records)["none-0"].history
    figure = variant_curves({f"variant {n}": [history, history] for n in range(6)})
    for axes in figure.axes:
        assert len(axes.lines) == len({str(line._dash_pattern) for line in axes.lines}) == 6
    assert legend(figure.axes[2]) == [f"variant {n} (2)" for n in range(6)]
    rows = ledger(records)
    (axes,) = forest(rows).axes  # a line for every measured claim
    measured = [row for row in rows if "effect" in row]
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks == [f"{row['id']}  {row['measure']}" for row in measured]
    assert [text.get_text() for text in axes.texts] == [row["verdict"] for row in measured]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_command_writes_ledger_and_figures(records, tmp_path, capsys):
    out = tmp_path / "written" / "claims.json"
    assert main(["claims", "--records", str(records), "--out", str(out)]) == 0
    written = out.read_text()
    assert len(json.loads(written)) == len(CLAIMS)
    text = capsys.readouterr().out
    assert "| C1 |" in text and "| CPU | " in text
    paths = [
        Path(line.removeprefix("figure: ")) for line in text.splitlines() if "figure: " in line
    ]
    assert [path.name for path in paths] == ["arms.png", "collapse.png", "claims.png"]
    assert all(Image.open(path).size[0] > 500 for path in paths)
    # A folder without records overwrites no ledger.
    assert main(["claims", "--records", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "make them with `study`" in capsys.readouterr().err and out.read_text() == written
