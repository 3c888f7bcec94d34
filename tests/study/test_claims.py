"""claims.py: the ledger finds what is in the records, and says so when it is not."""

import csv
import json

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
from deepeyes_lite.study.claims import CLAIMS, ledger, predictions, table, verdict
from deepeyes_lite.study.figures import forest, phase_diagram, variant_curves, write_figures
from deepeyes_lite.study.records import Record, load_records, load_sweep_base, spent
from deepeyes_lite.training import HISTORY_COLUMNS, write_history

N = 60


def make(folder, name, accuracy, calls=lambda step: 0.5, iou=lambda step: 0.3, config=None, seed=0):
    """A record whose conditions have these chances of a correct answer on illegible details."""
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config or {}))
    rows = []
    for step in range(1, 41):
        row = {**dict.fromkeys(HISTORY_COLUMNS, 0.5), "step": step, "n_zoom": 1, "n_direct": 1}
        row |= {"call_rate": calls(step), "calls_per_episode": calls(step), "best_iou": iou(step)}
        rows.append(row)
    write_history(rows, run / "history.csv")
    rng = np.random.default_rng([seed, len(name)])
    with (run / "episodes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(EPISODE_COLUMNS)
        for condition, chance in accuracy.items():
            for i in range(N):
                right = i % 2 or rng.random() < chance  # every other scene is legible and right
                used = int(condition != "base")
                writer.writerow([condition, f"test-{i}", i % 2, int(right), used, "0.5" * used])


@pytest.fixture
def records(tmp_path):
    good = {"base": 0.1, "trained": 0.9, "trained, tool off": 0.0, "trained, blank crops": 0.1}
    good["trained, other crops"] = 0.1
    good |= {"chart: base": 0.5, "chart: trained": 0.5}
    for seed in range(3):
        config = {"reward": "conditional", "seed": seed}
        make(
            tmp_path,
            f"conditional-{seed}",
            good,
            lambda s: min(1, s / 20),
            lambda s: s / 50,
            config,
            seed,
        )
        weak = {"base": 0.1, "trained": 0.4}
        make(
            tmp_path,
            f"unconditional-{seed}",
            weak,
            config={**config, "reward": "unconditional"},
            seed=seed,
        )
        dying = {**config, "reward": "none", "data": "", "bonus": None}
        make(tmp_path, f"none-{seed}", weak, lambda s: 0.5 * 0.9**s, config=dying, seed=seed)
    for share, after in (("0.1", 0.9), ("0.9", 0.1)):
        config = {"reward": "conditional", "seed": 0, "legible_share": float(share), "bonus": 0.0}
        make(tmp_path, f"sweep-{share}-0.0", {}, lambda step, after=after: after, config=config)
    for share, after in ((0.2, 0.9), (0.85, 0.8)):
        config = {"reward": "conditional", "seed": 1, "legible_share": share, "bonus": 0.0}
        make(tmp_path, f"fresh-{share}-0.0", {}, lambda step, after=after: after, config=config)
    base = {
        **dict.fromkeys(("call_rate_legible", "call_rate_illegible"), {"mean": 0.3}),
        "p_zoom_legible": {"mean": 0.4},
        "p_direct_legible": {"mean": 0.9},
        "p_zoom_illegible": {"mean": 0.4},
        "p_direct_illegible": {"mean": 0.1},
    }
    (tmp_path / "sweep-base.json").write_text(json.dumps(base))
    return tmp_path


def test_every_claim_is_in_the_ledger_once():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    found = {id.rstrip("abcdef") for id in ids}
    assert found == {"P1", "P2", *(f"C{n}" for n in range(1, 12))}


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


def test_predictions_compare_the_bonus_with_the_line(records):
    found = {name: Record(records / name) for name in ("sweep-0.1-0.0", "sweep-0.9-0.0")}
    base = json.loads((records / "sweep-base.json").read_text())
    low, high = predictions(found, base)
    assert low["least_bonus"] == pytest.approx(-0.44) and high["least_bonus"] == pytest.approx(0.84)
    assert low["first_order"] and low["grew"] and not high["first_order"] and not high["grew"]
    assert low["by_group"] and low["race"] and low["expected"] > low["before"] == pytest.approx(0.3)
    assert predictions(found, {}) == predictions({}, base) == []


def test_the_race_is_fitted_to_the_sweep_alone(records):
    found, base = load_records(records), load_sweep_base(records)
    rows = {(row["group"], row["share"]): row for row in predictions(found, base)}
    (found["fresh-0.85-0.0"].folder / "history.csv").write_text("")
    found = load_records(records)
    del found["fresh-0.85-0.0"]
    for row in predictions(found, base):
        assert row == rows[row["group"], row["share"]]


def test_a_folder_without_records_overwrites_no_ledger(tmp_path, capsys):
    out = tmp_path / "claims.json"
    out.write_text("kept")
    assert main(["claims", "--records", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "make them with `study`" in capsys.readouterr().err and out.read_text() == "kept"


def test_a_record_belongs_to_a_group_by_its_configuration(tmp_path):
    for config, group in (
        ({"reward": "none"}, "none"),
        ({"reward": "none", "bonus": None, "data": ""}, "none"),
        ({"reward": "conditional", "bonus": 0.0, "seed": 0}, "sweep"),
        ({"reward": "conditional", "bonus": 0.0, "seed": 1}, "fresh"),
        ({"reward": "conditional", "bonus": 0.05, "seed": 1, "steps": 60}, "divided"),
        ({"reward": "conditional", "bonus": 0.05, "trl": {"scale_rewards": "none"}}, "undivided"),
        ({"reward": "conditional", "data": "runs/study/data/both"}, "data-both"),
        ({"reward": "none", "legible_share": 0.9, "steps": 100}, "legible-none"),
        ({"reward": "none", "legible_share": 0.5, "steps": 100}, "none"),
        ({"reward": "conditional", "legible_share": 0.5, "steps": 300}, "long"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        assert Record(folder).group == group


def test_a_broken_record_is_not_taken_for_a_missing_one(records):
    (records / "sweep-0.1-0.0" / "config.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        ledger(records)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_an_interval_of_many_seeds_holds_the_truth(shift):
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(30):
        seeds = [shift + 0.1 * rng.standard_normal() + rng.standard_normal(40) for _ in range(6)]
        found = bootstrap_seeds_and_scenes(seeds, seed=trial)
        held += found["low"] <= shift <= found["high"]
    assert held >= 25


def test_the_spread_of_seeds_counts():
    same = bootstrap_seeds_and_scenes([np.full(40, 0.5)] * 4)
    apart = bootstrap_seeds_and_scenes([np.full(40, value) for value in (0.0, 0.2, 0.8, 1.0)])
    assert same["high"] - same["low"] == 0 and apart["high"] - apart["low"] > 0.5
    assert apart["effect"] == same["effect"] == 0.5


def test_scenes_without_a_value_are_left_out():
    found = bootstrap_seeds_and_scenes([np.array([1.0, np.nan] * 20)] * 2)
    assert found["effect"] == found["low"] == found["high"] == 1.0


def test_one_value_has_no_interval():
    with pytest.raises(NotMeasured, match="no interval"):
        t_interval([0.3])


def test_three_seeds_are_less_sure_than_a_bootstrap_of_them_says():
    found = t_interval([0.1, 0.2, 0.9])
    assert (
        found["low"] < 0 < found["effect"] and found["p"] > 0.05
    )  # though all three are above zero
    same = t_interval([0.4, 0.4])
    assert (same["low"], same["high"], same["p"]) == (0.4, 0.4, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.2, "replicated"), (-0.2, -0.1, "reversed"), (-0.1, 0.1, "not replicated")],
)
def test_the_verdict_is_in_words(low, high, words):
    assert verdict({"low": low, "high": high}) == words
    assert verdict({"low": low, "high": high}, False) == words.replace("reversed", "not replicated")


# --- figures ------------------------------------------------------------------------------------


def test_every_figure_is_made_of_the_records(records, tmp_path):
    rows = ledger(records)
    paths = write_figures(records, rows, tmp_path / "figures")
    assert [path.name for path in paths] == ["arms.png", "collapse.png", "claims.png"]
    for path in paths:
        assert Image.open(path).size[0] > 500
    assert write_figures(tmp_path / "nothing", [], tmp_path / "figures") == []


def test_arms_are_told_apart_without_colour(records):
    found = load_records(records)
    runs = {f"arm {n}": [found["none-0"].history, found["none-1"].history] for n in range(6)}
    figure = variant_curves(runs)
    for axes in figure.axes:
        styles = {str(line._dash_pattern) for line in axes.lines}
        assert len(axes.lines) == len(styles) == 6
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == [f"arm {n} (2)" for n in range(6)]


def test_the_phase_diagram_counts_hits_and_misses(records):
    found = predictions(load_records(records), load_sweep_base(records))
    plane, simulate_call_rate = phase_diagram(found).axes
    labels = [text.get_text() for text in plane.get_legend().get_texts()]
    assert labels == [
        "least bonus of the inequality",
        "grew, as predicted (2)",
        "grew, against it (1)",
        "fell, as predicted (1)",
        "fell, against it (0)",
    ]
    labels = [text.get_text() for text in simulate_call_rate.get_legend().get_texts()]
    assert labels == ["fitted to (2)", "fresh (2)"]


def test_the_forest_has_a_line_for_every_measured_claim(records):
    rows = ledger(records)
    figure = forest(rows)
    measured = [row for row in rows if "effect" in row]
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == [f"{row['id']}  {row['measure']}" for row in measured]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [row["verdict"] for row in measured]


def test_what_the_training_took_is_told_by_device(tmp_path):
    for name, n, seconds, said in (
        ("a-0", 100, 3.0, "1a2b3c\nCPU (x86_64), torch 2.13.0+cpu\n"),
        ("a-1", 100, 6.0, "1a2b3c\n"),
        ("b-0", 40, 9.0, None),
        ("a-2", 100, 1.8, "1a2b3c+\nNVIDIA H200, torch 2.11.0\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        row = {**dict.fromkeys(HISTORY_COLUMNS, 1), "step_time": seconds}
        write_history([{**row, "step": i + 1} for i in range(n)], tmp_path / name / "history.csv")
        if said:
            (tmp_path / name / "commit.txt").write_text(said)
    assert spent(load_records(tmp_path)).splitlines()[2:] == [
        "| CPU | 3 | 0.3 | 7.5 [5.0, 10.0] |",
        "| NVIDIA H200 | 1 | 0.1 | 3.0 [3.0, 3.0] |",
    ]


def test_the_command_writes_ledger_and_figures(records, tmp_path, capsys):
    out = tmp_path / "written" / "claims.json"
    assert main(["claims", "--records", str(records), "--out", str(out)]) == 0
    assert len(json.loads(out.read_text())) == len(CLAIMS)
    text = capsys.readouterr().out
    assert "| C1 |" in text and "| CPU | " in text and text.count("figure: ") == 3
