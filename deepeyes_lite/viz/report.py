"""The run's report: one HTML file that needs nothing beside it."""

import html
import json
from pathlib import Path

from deepeyes_lite.evaluation import interval
from deepeyes_lite.files import atomic_write
from deepeyes_lite.tinyworld.dataset import held_out
from deepeyes_lite.training import read_config, read_history
from deepeyes_lite.trajectories import Trajectory, read_jsonl
from deepeyes_lite.viz import plots
from deepeyes_lite.viz.html import STYLE, excerpt


def write_report(out: str | Path, episodes: int = 6) -> Path:
    """Write ``report.html`` for an evaluated run: table, curves, and episodes before and after.

    Raises:
        FileNotFoundError: if the run was not evaluated.
    """
    out = Path(out)
    if not (out / "evaluation.json").exists():
        raise FileNotFoundError(f"no evaluation.json in {out}; run `evaluate --out {out}` first")
    report = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    config = read_config(out)
    history = read_history(out / "history.csv")
    dataset = held_out(report["samples"], config.legible_share)
    before, after = (
        read_jsonl(out / "trajectories" / f"{name}.jsonl") for name in ("base", "trained")
    )
    chosen = _spread(after, episodes)
    images = {dataset[i]["id"]: dataset[i]["image"] for i in chosen}
    before = read_jsonl(out / "trajectories" / "base.jsonl", images)
    after = read_jsonl(out / "trajectories" / "trained.jsonl", images)
    base, trained = (report["conditions"][name] for name in ("base", "trained"))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>deepeyes-lite run</title>",
        f"<style>{STYLE}</style><h1>Did it learn where to look?</h1>",
        f"<p>Arm <b>{html.escape(config.reward)}</b>, {len(history)} steps of {config.prompts_per_step} × "
        f"{config.num_generations} rollouts, seed {config.seed}; {report['samples']} held-out scenes, "
        f"{100 * config.legible_share:.0f} % of the details legible in the view.</p>",
        "<h2>Before, after, and without the crop</h2>",
        _table(report),
        plots.image_tag(
            plots.accuracy_bars(report),
            "Accuracy by condition. Illegible details: base "
            f"{interval(base['accuracy_illegible'])}, trained {interval(trained['accuracy_illegible'])}.",
        ),
        "<h2>Training</h2>",
        plots.image_tag(
            plots.curves(history),
            f"Curves over {len(history)} steps: accuracy, call rate, IoU of the boxes, and the "
            "probabilities of a correct answer with and without a zoom.",
        ),
        "<h2>The same scenes before and after</h2><p>Green, dashed: the detail asked for. Orange: what "
        "the model zoomed into.</p>",
    ]
    shown = [before[i] for i in chosen] + [after[i] for i in chosen]
    crops = min(3, max(1, *(len(t.boxes_px) for t in shown)))
    for i in chosen:
        parts.append(
            f"<div class=pair>{_figure(before[i], 'Before', crops)}{_figure(after[i], 'After', crops)}</div>"
        )
    parts.append(
        f"<h2>Configuration</h2><pre>{html.escape((out / 'config.json').read_text(encoding='utf-8'))}</pre>"
    )
    with atomic_write(out / "report.html") as tmp:
        tmp.write_text("\n".join(parts), encoding="utf-8")
    return out / "report.html"


def _spread(after: list[Trajectory], episodes: int) -> list[int]:
    """Which samples to show: the first of the test set, two illegible ones for each legible one.

    Chosen by what was asked, never by how it went.
    """
    illegible = [i for i, t in enumerate(after) if t.sample["legible"] == 0]
    legible = [i for i, t in enumerate(after) if t.sample["legible"] == 1]
    few = episodes // 3
    return sorted(illegible[: episodes - few] + legible[:few])


def _table(report: dict) -> str:
    head = ["", "accuracy", "legible", "illegible", "call rate", "IoU of calls"]
    rows = []
    for name, figures in report["conditions"].items():
        iou = figures["call_iou"]
        cells = [interval(figures[f"accuracy{half}"]) for half in ("", "_legible", "_illegible")]
        cells += [interval(figures["call_rate"]), f"{iou['mean']:.2f}" if iou["n"] else "–"]
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in (name, *cells)))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{body}</table>"
        "<p>Accuracy with 95 % intervals. IoU over all answered calls.</p>"
    )


def _figure(trajectory: Trajectory, title: str, crops: int) -> str:
    alt = (
        f"{title}: {trajectory.sample['question']} Answer {trajectory.answer}, "
        f"{'right' if trajectory.correct else 'wrong'}, {len(trajectory.boxes_px)} zooms."
    )
    strip = plots.image_tag(plots.episode_strip(trajectory, crops, f"{title}: "), alt[:300], dpi=90)
    text = excerpt("\n".join(turn.text for turn in trajectory.turns), 5000)
    return (
        f"<figure>{strip}<details><summary>What it wrote</summary><pre>{text}</pre>"
        "</details></figure>"
    )
