"""Read what policies did: filter, sort, step turn by turn, compare two on the same sample."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from urllib.parse import quote

from ipywidgets import (
    HTML,
    BoundedFloatText,
    Button,
    Checkbox,
    Dropdown,
    HBox,
    Label,
    Layout,
    Select,
    Text,
    VBox,
)
from matplotlib.figure import Figure

from deepeyes_lite.evaluation import interval, share
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.trajectories import Trajectory, crops, read_jsonl
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import episode_strips
from deepeyes_lite.viz.widgets.controls import Panel

ANY = "any"
SORTS = {
    "as recorded": lambda row: row.place,
    "lowest IoU first": lambda row: (row.iou is None, row.iou),
    "highest IoU first": lambda row: (row.iou is None, -(row.iou or 0)),
    "most zooms first": lambda row: -row.calls,
    "most turns first": lambda row: -row.turns,
    "longest text first": lambda row: -row.length,
}


@dataclass(frozen=True)
class Row:
    """One sample in the list; the figures are those of the policy that the filters read."""

    place: int
    key: tuple[str, int]
    label: str
    right: dict[str, bool]
    calls: int
    turns: int
    length: int
    iou: float | None
    kind: str
    text: str


class TrajectoryViewer(Panel):
    """Episodes of one policy or of several, side by side on the same sample.

    A sample may have several episodes of one policy; the first of one policy stands beside the first of
    the other, and so on.
    """

    def __init__(self, episodes, images=None, tokenizer=None):
        """Open episodes.

        Args:
            episodes: trajectories, or a JSONL file; or a dict of them by the policy's name.
            images: a dataset in our schema, or a dict of images by sample id, for episodes from a file.
            tokenizer: of the model, to show tokens as text.

        Raises:
            ValueError: if there are no episodes.
        """
        sources = episodes if isinstance(episodes, dict) else {"policy": episodes}
        self.tokenizer = tokenizer
        self._images = images
        self._places = (
            {} if images is None or isinstance(images, dict) else _by_id(images["id"])
        )  # a dataset decodes an image when it is asked for
        self._by_policy: dict[str, dict[tuple[str, int], Trajectory]] = {}
        self._rates: dict[str, dict[str, float]] = {}
        for name, source in sources.items():
            found = read_jsonl(source) if isinstance(source, str | Path) else source
            keyed, groups = {}, defaultdict(list)
            for trajectory in map(html.checked, found):
                group = groups[str(trajectory.sample.get("id"))]
                keyed[str(trajectory.sample.get("id")), len(group)] = trajectory
                group.append(trajectory.called)
            self._by_policy[str(name)] = keyed
            self._rates[str(name)] = {k: sum(v) / len(v) for k, v in groups.items()}
        self._keys = list(dict.fromkeys(key for keyed in self._by_policy.values() for key in keyed))
        if not self._keys:
            raise ValueError("there are no episodes to show")
        self._build()
        self._filter()
        self._list.observe(lambda _: self._open(), "value")
        self._open()
        super().__init__(self._children)

    def _build(self) -> None:
        names = list(self._by_policy)
        self._rows = {name: self._rows_of(name) for name in names}
        kinds = Counter(row.kind for rows in self._rows.values() for row in rows)
        only = [f"only {html.line(name, 30)} right" for name in names] if len(names) == 2 else []
        wide = Layout(width="260px")
        self.of = Dropdown(options=_options(names), description="filters on", layout=wide)
        self.correct = Dropdown(
            options=[ANY, "right", "wrong", *only], description="answer", layout=wide
        )
        self.called = Dropdown(
            options=[ANY, "with a zoom", "without"], description="zoom", layout=wide
        )
        self.kind = Dropdown(
            options=[(ANY, ANY), *_options(kinds)], description="kind", layout=wide
        )
        bound = {"min": 0, "max": 1, "step": 0.05, "layout": Layout(width="170px")}
        self.iou_from = BoundedFloatText(value=0, description="IoU from", **bound)
        self.iou_to = BoundedFloatText(value=1, description="to", **bound)
        self.contains = Text(description="contains", placeholder="text of the model", layout=wide)
        self.sort = Dropdown(options=list(SORTS), description="sort", layout=wide)
        self._variant = Dropdown(options=list(VARIANTS), description="reward", layout=wide)
        self._tokens = Checkbox(description="show tokens and loss mask", value=False)
        self._list = Select(rows=16, description="episodes", layout=Layout(width="400px"))
        self._count, self._step = HTML(), Label()
        self._back = Button(description="Previous turn")
        self._forth = Button(description="Next turn")
        self._export = Button(description="Make a page", tooltip="This episode as one HTML file")
        column = Layout(flex="1 1 320px", max_width="520px")
        self._columns = {name: HTML(layout=column) for name in names}
        self._link = HTML()
        filters = [self.correct, self.called, self.kind, self.iou_from, self.iou_to, self.contains]
        for control in (self.of, *filters, self.sort):
            control.observe(lambda _: self._filter(), "value")
        self._variant.observe(lambda _: self._show(), "value")
        self._tokens.observe(lambda _: self._show(), "value")
        self._back.on_click(lambda _: self.step(-1))
        self._forth.on_click(lambda _: self.step(1))
        self._export.on_click(lambda _: self._offer())
        wrap = Layout(flex_flow="row wrap")
        several = [self.of] if len(names) > 1 else []
        steps = HBox([self._back, self._forth, self._step, self._export, self._link], layout=wrap)
        right = VBox(
            [
                steps,
                HBox([self._variant, self._tokens], layout=wrap),
                HBox(
                    list(self._columns.values()),
                    layout=Layout(flex_flow="row wrap", grid_gap="16px"),
                ),
            ],
            layout=Layout(flex="1 1 480px"),
        )
        self._children = [
            HBox([*several, *filters, self.sort], layout=wrap),
            self._count,
            HBox([self._list, right], layout=Layout(flex_flow="row wrap", grid_gap="12px")),
        ]

    def _rows_of(self, name: str) -> list[Row]:
        rows = []
        for place, key in enumerate(self._keys):
            if (t := self._by_policy[name].get(key)) is None:
                continue
            right = {n: keyed[key].correct for n, keyed in self._by_policy.items() if key in keyed}
            overlap, calls, text = t.best_iou, len(t.boxes_px), "\n".join(x.text for x in t.turns)
            said = "no answer" if t.answer is None else html.line(t.answer, 12)
            told = f"{calls} zoom{'' if calls == 1 else 's'}"
            told += "" if overlap is None else f", IoU {overlap:.2f}"
            verdict = "right" if t.correct else "wrong"
            label = f"{html.line(key[0], 24)}: {said} ({verdict}), {told}"
            kind = str(t.sample.get("kind", "?"))
            figures = {"calls": calls, "turns": len(t.turns), "length": len(text), "iou": overlap}
            rows.append(Row(place, key, label, right, kind=kind, text=text.casefold(), **figures))
        return rows

    # --- what a reader does -------------------------------------------------------------------------

    def step(self, by: int) -> None:
        """Show one turn more, or one less."""
        self._shown = min(max(1, self._shown + by), self._turns)
        self._show()

    @property
    def episodes(self) -> dict[str, Trajectory]:
        """The episodes on show by the policy's name, with their images; empty if none passes."""
        key = self._list.value
        found = {n: keyed[key] for n, keyed in self._by_policy.items() if key in keyed}
        image = self._image(key[0]) if found else None
        # Cut when they are looked at, and not kept: a thousand scenes fill the memory.
        return {
            name: t
            if t.images or image is None
            else replace(t, images=[image, *crops(image, t.boxes_px)])
            for name, t in found.items()
        }

    @property
    def passing(self) -> list[Trajectory]:
        """The episodes that pass the filters, in their order, of the policy that the filters read."""
        return [self._by_policy[self.of.value][key] for _, key in self._list.options]

    def page(self) -> str:
        """The episode on show as one HTML file that needs nothing beside it.

        Raises:
            ValueError: if no episode is on show.
        """
        if not (episodes := self.episodes):
            raise ValueError("no episode passes the filters, so there is none to export")
        return html.episode_page(
            episodes, VARIANTS[self._variant.value], self._rate(), self.tokenizer
        )

    def export(self, path: str | Path) -> Path:
        """Write `page` to a file."""
        Path(path).write_text(self.page(), encoding="utf-8")
        return Path(path)

    # --- how it looks -------------------------------------------------------------------------------

    def _image(self, name: str):
        if isinstance(self._images, dict):
            return self._images.get(name)
        return self._images[self._places[name]]["image"] if name in self._places else None

    def _filter(self) -> None:
        rows = [row for row in self._rows[self.of.value] if self._passes(row)]
        rows.sort(key=SORTS[self.sort.value])
        right = sum(row.right[self.of.value] for row in rows)
        total = len(self._rows[self.of.value])
        told = interval(share(right, len(rows)))
        self._count.value = f"<b>{len(rows):,} of {total:,} episodes</b>; right: {told}"
        self._list.options = [(row.label, row.key) for row in rows]
        if (
            rows and self._list.index is None
        ):  # as at the start, and after a filter that none passed
            self._list.index = 0

    def _passes(self, row: Row) -> bool:
        answer, low, high = self.correct.value, self.iou_from.value, self.iou_to.value
        if answer in ("right", "wrong") and row.right[self.of.value] != (answer == "right"):
            return False
        if answer.startswith("only "):
            one = list(self._by_policy)[self.correct.index - 3]
            if not row.right.get(one) or any(v for n, v in row.right.items() if n != one):
                return False
        if self.called.value != ANY and (row.calls > 0) != (self.called.value == "with a zoom"):
            return False
        if self.kind.value not in (ANY, row.kind):
            return False
        if (low, high) != (0, 1) and (row.iou is None or not low <= row.iou <= high):
            return False
        return self.contains.value.casefold() in row.text

    def _open(self) -> None:
        self._turns = max((len(t.turns) for t in self.episodes.values()), default=1) or 1
        self._shown = self._turns
        self._show()

    def _show(self) -> None:
        self._link.value = ""
        self._step.value = f"turns 1 to {self._shown} of {self._turns}"
        self._back.disabled, self._forth.disabled = self._shown <= 1, self._shown >= self._turns
        episodes, rates = self.episodes, self._rate()
        self._export.disabled = not episodes
        for name, column in self._columns.items():
            if (t := episodes.get(name)) is None:
                column.value = "" if episodes else "<p>No episode passes the filters.</p>"
                continue
            text = (
                f"<h3>{html.excerpt(name, 60)}</h3>"
                f"<p>{html.excerpt(t.sample.get('question', ''), 300)}</p>"
                f"{html.picture(t, self._shown)}{html.turns(t, self._shown)}"
            )
            if self._shown >= len(t.turns):
                split = html.parts(VARIANTS[self._variant.value], t, rates[name])
                text += f"<p><b>{html.excerpt(html.verdict(t), 200)}</b></p>"
                text += html.reward_table(split)
            if self._tokens.value:
                text += html.tokens(t, self.tokenizer)
            column.value = text

    def _rate(self) -> dict[str, float]:
        key = self._list.value
        return {name: rates.get(key[0], 0.0) if key else 0.0 for name, rates in self._rates.items()}

    def _offer(self) -> None:
        """A link to the page: it is stored where the reader is, which need not be where the kernel is."""
        name = re.sub(r"[^\w.-]+", "_", self._list.value[0])[:60]
        self._link.value = (
            f'<a download="episode-{escape(name)}.html" '
            f'href="data:text/html;charset=utf-8,{quote(self.page())}">Download the page</a>'
        )

    # --- for readers without a kernel ---------------------------------------------------------------

    def picture(self) -> Figure:
        """The episode on show as strips, one for each policy; blank where there is no image."""
        shown = {name: t for name, t in self.episodes.items() if t.images}
        return episode_strips(shown) if shown else Figure(figsize=(4, 1))

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        told = [
            f"{html.line(name, 30)}: {html.line(html.verdict(t))}."
            for name, t in self.episodes.items()
        ]
        episodes = list(self.episodes.values()) or [Trajectory(sample={"question": "none"})]
        question = html.line(episodes[0].sample.get("question", ""))
        return f"Trajectory viewer, {len(self._keys)} episodes. {question} {' '.join(told)}"


def _by_id(ids) -> dict[str, int]:
    return {name: i for i, name in enumerate(ids)}


def _options(names) -> list[tuple[str, str]]:
    return [(html.line(name, 40), str(name)) for name in names]
