"""The run's report, and the page of one episode: HTML files that need nothing beside them."""

import base64
import html
import io
import json
from pathlib import Path

from PIL import Image

from deepeyes_lite import plots
from deepeyes_lite.evaluation import held_out, interval
from deepeyes_lite.files import whole
from deepeyes_lite.training import read_config, read_history
from deepeyes_lite.trajectories import Trajectory, read_jsonl

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.35rem .8rem;border-bottom:1px solid #ccc}
td{text-align:right}td:first-child,th:first-child{text-align:left}img{max-width:100%}
.pair{display:flex;flex-wrap:wrap;gap:.5rem}.pair figure{flex:1 1 30rem;margin:.4rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;padding:.6rem}
svg{max-width:100%;max-height:80vh;height:auto}.error{color:#a33000}
"""
SHOWN_CHARS = 5000  # of what a model wrote in a turn
SHOWN_SIDE = 1024  # px of a picture on a page


def write_report(out: str | Path, episodes: int = 6) -> Path:
    """Write ``report.html`` for an evaluated run: table, curves, and episodes before and after.

    Raises:
        FileNotFoundError: if the run was not evaluated.
    """
    out = Path(out)
    if not (out / "evaluation.json").exists():
        raise FileNotFoundError(f"no evaluation.json in {out}; run `evaluate --out {out}` first")
    report = json.loads((out / "evaluation.json").read_text())
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
        f"<p>Arm <b>{html.escape(config.arm)}</b>, {len(history)} steps of {config.prompts} × "
        f"{config.generations} rollouts, seed {config.seed}; {report['samples']} held-out scenes, "
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
        f"<h2>Configuration</h2><pre>{html.escape((out / 'config.json').read_text())}</pre>"
    )
    return _write(parts, out / "report.html")


def _write(parts: list[str], path: Path) -> Path:
    with whole(path) as aside:
        aside.write_text("\n".join(parts), encoding="utf-8")
    return path


def episode_text(trajectory: Trajectory) -> str:
    """One episode for a terminal, turn by turn: what the model wrote, where it zoomed, its answer.

    >>> from deepeyes_lite.trajectories import Turn
    >>> turns = [Turn("<tool_call>…", [(0, 0, 28, 28)]), Turn("<answer>K</answer>")]
    >>> print(episode_text(Trajectory({"question": "?"}, turns=turns, answer="K")))
    question: ?
    turn 1: <tool_call>…
      zoom 1: (0, 0) to (28, 28) px
    turn 2: <answer>K</answer>
    answer: K
    """
    lines, zooms = [f"question: {trajectory.sample['question']}"], 0
    for number, turn in enumerate(trajectory.turns, 1):
        lines.append(f"turn {number}: {turn.text[:SHOWN_CHARS]}")
        for x1, y1, x2, y2 in turn.boxes_px:
            zooms += 1
            lines.append(f"  zoom {zooms}: ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f}) px")
        lines += [f"  {error[:SHOWN_CHARS]}" for error in turn.errors]
    answer = trajectory.answer
    lines.append("no answer" if answer is None else f"answer: {answer[:SHOWN_CHARS]}")
    # What a model writes must not steer the terminal.
    return "".join(c if c.isprintable() or c == "\n" else " " for c in "\n".join(lines))


def write_episode(trajectory: Trajectory, path: str | Path, who: str) -> Path:
    """Write one episode as one HTML file: the picture with its boxes, every turn with its crops.

    Args:
        trajectory: an episode with its images.
        path: the file to write.
        who: the model's name.
    """
    question = html.escape(trajectory.sample["question"][:SHOWN_CHARS])
    answer = "no answer" if trajectory.answer is None else trajectory.answer[:SHOWN_CHARS]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>deepeyes-lite episode</title>",
        f"<style>{STYLE}</style><h1>{question}</h1>",
        f"<p>{html.escape(who[:200])}: <b>{html.escape(answer)}</b></p>",
        _picture_with_boxes(trajectory),
    ]
    crops = iter(trajectory.images[1:])
    zooms = 0
    for number, turn in enumerate(trajectory.turns, 1):
        text = html.escape(turn.text[:SHOWN_CHARS])
        parts.append(f"<h2>Turn {number}</h2><pre>{text}</pre>")
        for _, crop in zip(turn.boxes_px, crops):
            zooms += 1
            parts.append(
                f'<figure><img src="{_jpeg_url(crop)}" alt="What zoom {zooms} shows.">'
                f"<figcaption>zoom {zooms}, {crop.width} × {crop.height} px</figcaption></figure>"
            )
        parts += [f"<p class=error>{html.escape(e[:SHOWN_CHARS])}</p>" for e in turn.errors]
    return _write(parts, Path(path))


def _picture_with_boxes(trajectory: Trajectory) -> str:
    """The picture with the numbered boxes of its zooms; drawn over it, so that both stay sharp."""
    width, height = trajectory.images[0].size
    line = max(width, height) / 300
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{min(width, SHOWN_SIDE)}" role="img" '
        f'aria-label="The picture, with {len(trajectory.boxes_px)} boxes.">'
        f'<image href="{_jpeg_url(trajectory.images[0])}" width="{width}" height="{height}"/>'
    ]
    for number, (x1, y1, x2, y2) in enumerate(trajectory.boxes_px, 1):
        parts.append(
            f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" '
            f'fill="none" stroke="{plots.ORANGE}" stroke-width="{line:.1f}"/>'
            f'<text x="{x1 + 2 * line:.1f}" y="{y1 + 7 * line:.1f}" font-size="{7 * line:.1f}" '
            f'fill="{plots.ORANGE}">{number}</text>'
        )
    return "".join([*parts, "</svg>"])


def _jpeg_url(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


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
    text = "\n".join(turn.text for turn in trajectory.turns)[:5000]
    return (
        f"<figure>{strip}<details><summary>What it wrote</summary><pre>{html.escape(text)}</pre>"
        "</details></figure>"
    )
