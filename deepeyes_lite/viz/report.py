"""The run's report: one HTML file that needs nothing beside it."""

import json
from pathlib import Path

from deepeyes_lite.evaluation import interval
from deepeyes_lite.files import atomic_write
from deepeyes_lite.tinyworld.dataset import held_out
from deepeyes_lite.training import read_config, read_history
from deepeyes_lite.trajectories import Trajectory, read_jsonl
from deepeyes_lite.viz import html, plots
from deepeyes_lite.viz.widgets.training_scrubber import TrainingScrubber

EPISODES = 6  # shown before and after
COLUMNS = ("accuracy", "accuracy_legible", "accuracy_illegible", "call_rate")


def write_report(out: str | Path) -> Path:
    """Write ``report.html`` for an evaluated run: table, curves, and episodes before and after.

    Args:
        out: the run's folder.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if the run was not evaluated.
    """
    out = Path(out)
    if not (out / "evaluation.json").exists():
        raise FileNotFoundError(f"no evaluation.json in {out}; run `evaluate --out {out}` first")
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    config = read_config(out)
    history = read_history(out / "history.csv")
    dataset = held_out(evaluation["samples"], config.legible_share)
    trained = read_jsonl(out / "trajectories" / "trained.jsonl")
    chosen = spread([episode.sample["legible"] for episode in trained])
    images = {dataset[i]["id"]: dataset[i]["image"] for i in chosen}
    episodes = {
        title: read_jsonl(out / "trajectories" / name, images)
        for title, name in (("Before", "base.jsonl"), ("After", "trained.jsonl"))
    }
    crops = max(len(group[i].boxes_px) for group in episodes.values() for i in chosen)
    crops = min(3, max(1, crops))
    base, trained = (evaluation["conditions"][name] for name in ("base", "trained"))
    page = html.TEMPLATES.get_template("report.jinja").render(
        config=config,
        steps=len(history),
        samples=evaluation["samples"],
        rows=[_row(name, figures) for name, figures in evaluation["conditions"].items()],
        bars=plots.image_tag(
            plots.accuracy_bars(evaluation),
            "Accuracy by condition. Illegible details: base "
            f"{interval(base['accuracy_illegible'])}, trained {interval(trained['accuracy_illegible'])}.",
        ),
        scrubber=TrainingScrubber(out)._repr_html_(),
        pairs=[[_strip(t, group[i], crops) for t, group in episodes.items()] for i in chosen],
        configuration=(out / "config.json").read_text(encoding="utf-8"),
    )
    with atomic_write(out / "report.html") as tmp:
        tmp.write_text(page, encoding="utf-8")
    return out / "report.html"


def spread(legible: list[int], count: int = EPISODES) -> list[int]:
    """Which samples to show: the first of the test set, two illegible ones for each legible one.

    The choice follows what was asked, never how it went.

    >>> spread([1, 0, 0, 1, 1, 0, 0], count=3)
    [0, 1, 2]
    """
    few = count // 3
    hidden = [i for i, flag in enumerate(legible) if not flag][: count - few]
    return sorted(hidden + [i for i, flag in enumerate(legible) if flag][:few])


def _row(name: str, figures: dict) -> list[str]:
    iou = figures["call_iou"]
    cells = [interval(figures[column]) for column in COLUMNS]
    return [name, *cells, f"{iou['mean']:.2f}" if iou["n"] else "–"]


def _strip(title: str, episode: Trajectory, crops: int) -> tuple[str, str]:
    """The strip of an episode as an image, and what the model wrote."""
    alt = f"{title}: {html.line(episode.sample['question'])} {html.verdict(episode)}."
    figure = plots.episode_strip(episode, crops, f"{title}: ")
    text = "\n".join(turn.text for turn in episode.turns)
    return plots.image_tag(figure, alt, dpi=90), text
