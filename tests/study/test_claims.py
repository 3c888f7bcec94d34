"""claims.py, figures.py: the ledger holds what is in the records, and says so when it is not."""

import csv
import json
import shutil

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
    rows = []
    for step in range(1, 41):
        row = {**dict.fromkeys(HISTORY_COLUMNS, 0.5), "step": step, "n_zoom": 1, "n_direct": 1}
        row |= {"call_rate": calls(step), "calls_per_episode": calls(step), "best_iou": iou(step)}
        rows.append(row)
    write_history(rows, run / "history.csv")
    rng = np.random.default_rng([config["seed"], len(name)])
    with (run / "episodes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(EPISODE_COLUMNS)
        for condition, chance in dict(accuracy).items():
            used = int(condition != "base")
            for i in range(N):  # every other scene is legible, and answered correctly
                correct = int(i % 2 or rng.random() < chance)
                writer.writerow([condition, f"test-{i}", i % 2, correct, used, "0.5" * used])


@pytest.fixture
def records(tmp_path):
    good = {"base": 0.1, "trained": 0.9, "trained, calls suppressed": 0.0}
    good |= {"trained, blank crops": 0.1, "trained, other crops": 0.1}
    good |= {"chart: base": 0.5, "chart: trained": 0.5}
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
    means = {"call_rate_legible": 0.3, "call_rate_illegible": 0.3}
    means |= {"p_zoom_legible": 0.4, "p_direct_legible": 0.9}
    means |= {"p_zoom_illegible": 0.4, "p_direct_illegible": 0.1}
    base = {name: {"mean": mean} for name, mean in means.items()}
    (tmp_path / "sweep-base.json").write_text(json.dumps(base))
    return tmp_path


def test_every_claim_is_in_the_ledger_once():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids)
    numbers = {id.rstrip("abcdefghij") for id in ids}
    assert numbers == {"P1", "P2", *(f"C{n}" for n in range(1, 12))}


def test_the_ledger_says_what_the_records_hold(records):
    rows = {row["id"]: row for row in ledger(records)}
    verdicts = {id: row["verdict"] for id, row in rows.items()}
    for id in ("C1", "C2", "C4", "C5a", "C5c"):
        assert verdicts[id] == "replicated", id
    assert verdicts["P1"] == "shown"  # no paper's claim
    assert verdicts["C5b"] == verdicts["C9b"] == "inconclusive"
    assert verdicts["C5h"] == "no difference"  # not even a little
    assert {verdicts[f"C10{letter}"] for letter in "abc"} == {"true by construction"}
    assert verdicts["C3a"] == "cannot be tested here" and "`read` alone" in rows["C3a"]["note"]
    assert verdicts["C6"] == verdicts["C7a"] == verdicts["C8a"] == "not measured"
    assert rows["C1"]["effect"] == pytest.approx(0.8, abs=0.15)
    assert (rows["C1"]["n"], rows["C1"]["seeds"]) == (N // 2, 3)
    assert rows["C1"]["low"] < rows["C1"]["effect"] < rows["C1"]["high"]
    assert rows["C2"]["effect"] == rows["C2"]["mean"] == 1.0 and rows["C2"]["other_mean"] == 0.0
    assert rows["P2"]["effect"] == 1.0  # the base of the records answers at once
    assert rows["C5c"]["note"] == f"CPU {rows['C5c']['effect']:+.2f} (3 seeds)"
    assert rows["C11f"]["hits"] + len(rows["C11f"]["missed"]) == 3
    assert rows["C11a"]["hits"] == 2
    assert (rows["C11b"]["n"], rows["C11c"]["n"]) == (2, 2)
    text = table(list(rows.values()))
    assert text.count("\n") == len(CLAIMS) + 1 and "not measured" in text
    assert json.loads(json.dumps(list(rows.values()))) == list(rows.values())


def test_a_single_run_is_no_replication(records):
    for seed in (1, 2):
        shutil.rmtree(records / f"unconditional-{seed}")
    rows = {row["id"]: row for row in ledger(records)}
    assert rows["C5a"]["verdict"] == rows["C5b"]["verdict"] == "not measured"
    assert rows["C1"]["seeds"] == 3


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


def test_a_broken_record_is_not_taken_for_a_missing_one(records):
    (records / "sweep-0.1" / "run.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        ledger(records)


def test_the_verdict_is_in_words():
    bounds = {
        "replicated": (0.01, 0.02),
        "contradicted": (-0.2, -0.1),
        "no difference": (-0.04, 0.04),
        "inconclusive": (-0.04, 0.06),
    }
    for words, (low, high) in bounds.items():
        assert verdict({"low": low, "high": high}) == words
    assert verdict({"low": 0.1, "high": 0.2}, "shown") == "shown"
    assert verdict({"low": -0.06, "high": 0.04}) == "inconclusive"


# --- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_an_interval_of_many_seeds_holds_the_truth(shift):
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(30):
        seeds = [shift + 0.1 * rng.standard_normal() + rng.standard_normal(40) for _ in range(6)]
        figures = bootstrap_seeds_and_scenes(seeds, seed=trial)
        held += figures["low"] <= shift <= figures["high"]
    assert held >= 25


def test_the_spread_of_seeds_counts_and_scenes_without_a_value_do_not():
    same = bootstrap_seeds_and_scenes([np.full(40, 0.5)] * 4)
    apart = bootstrap_seeds_and_scenes([np.full(40, value) for value in (0.0, 0.2, 0.8, 1.0)])
    assert same["high"] - same["low"] == 0 and apart["high"] - apart["low"] > 0.5
    assert apart["effect"] == same["effect"] == 0.5
    figures = bootstrap_seeds_and_scenes([np.array([1.0, np.nan] * 20)] * 2)
    assert figures["effect"] == figures["low"] == figures["high"] == 1.0


def test_three_seeds_are_less_sure_than_a_bootstrap_of_them_says():
    figures = t_interval([0.1, 0.2, 0.9])  # all above zero
    assert figures["low"] < 0 < figures["effect"] and figures["p"] > 0.05
    same = t_interval([0.4, 0.4])
    assert (same["low"], same["high"], same["p"]) == (0.4, 0.4, 0.0)
    with pytest.raises(NotMeasured, match="no interval"):
        t_interval([0.3])


# --- figures and the command ----------------------------------------------------------------------


def test_every_figure_is_made_of_the_records(records, tmp_path):
    paths = write_figures(records, ledger(records), tmp_path / "figures")
    assert [path.name for path in paths] == ["variants.png", "collapse.png", "claims.png"]
    for path in paths:
        assert Image.open(path).size[0] > 500
    assert write_figures(tmp_path / "nothing", [], tmp_path / "figures") == []


def test_variants_are_told_apart_without_colour(records):
    history = load_records(records)["none-0"].history
    figure = variant_curves({f"variant {n}": [history, history] for n in range(6)})
    for axes in figure.axes:
        styles = {str(line._dash_pattern) for line in axes.lines}
        assert len(axes.lines) == len(styles) == 6
    assert legend(figure.axes[2]) == [f"variant {n} (2)" for n in range(6)]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_phase_diagram_counts_hits_and_misses(records):
    rows = predictions(load_records(records), load_sweep_base(records))
    plane, race = phase_diagram(rows).axes
    assert legend(plane) == [
        "least bonus of the inequality",
        "grew, as predicted (2)",
        "grew, against it (1)",
        "fell, as predicted (1)",
        "fell, against it (0)",
    ]
    assert legend(race) == ["fitted to (2)", "fresh (2)"]


def test_the_forest_has_a_line_for_every_measured_claim(records):
    rows = ledger(records)
    (axes,) = forest(rows).axes
    measured = [row for row in rows if "effect" in row]
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks == [f"{row['id']}  {row['measure']}" for row in measured]
    assert [text.get_text() for text in axes.texts] == [row["verdict"] for row in measured]


def test_the_command_writes_ledger_and_figures(records, tmp_path, capsys):
    out = tmp_path / "written" / "claims.json"
    assert main(["claims", "--records", str(records), "--out", str(out)]) == 0
    written = out.read_text()
    assert len(json.loads(written)) == len(CLAIMS)
    text = capsys.readouterr().out
    assert "| C1 |" in text and "| CPU | " in text and text.count("figure: ") == 3
    # A folder without records overwrites no ledger.
    assert main(["claims", "--records", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "make them with `study`" in capsys.readouterr().err and out.read_text() == written
