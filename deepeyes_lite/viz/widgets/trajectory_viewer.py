"""Read what policies did: filter, sort, step turn by turn, compare two on the same sample."""

import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import ipywidgets
from ipywidgets import HTML, Button, Dropdown, Layout
from markupsafe import Markup
from matplotlib.figure import Figure

from deepeyes_lite.evaluation import interval, share
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.trajectories import Trajectory, crops_of, read_jsonl
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import episode_strips
from deepeyes_lite.viz.widgets.controls import Panel, wrapped

ANY = "any"
SORTS = {
    "as recorded": lambda t: 0,
    "lowest IoU first": lambda t: (t.best_iou is None, t.best_iou),
    "highest IoU first": lambda t: (t.best_iou is None, -(t.best_iou or 0)),
    "most zooms first": lambda t: -len(t.boxes_px),
    "most turns first": lambda t: -len(t.turns),
    "longest text first": lambda t: -sum(len(turn.text) for turn in t.turns),
}
Key = tuple[str, int]  # sample id, and which of the episodes of this sample


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
        self.tokenizer, self._images = tokenizer, images
        if images is not None and not isinstance(images, dict):
            # A dataset decodes an image when it is asked for.
            self._places = {name: i for i, name in enumerate(images["id"])}
        self._by_policy: dict[str, dict[Key, Trajectory]] = {}
        self._rates: dict[str, dict[str, float]] = {}  # group call rate by sample id
        for name, source in sources.items():
            source = read_jsonl(source) if isinstance(source, str | Path) else source
            keyed, calls = {}, defaultdict(list)
            for trajectory in map(html.checked, source):
                id_ = str(trajectory.sample.get("id"))
                keyed[id_, len(calls[id_])] = trajectory
                calls[id_].append(trajectory.called)
            self._by_policy[str(name)] = keyed
            self._rates[str(name)] = {id_: sum(c) / len(c) for id_, c in calls.items()}
        self._keys = list(dict.fromkeys(key for keyed in self._by_policy.values() for key in keyed))
        if not self._keys:
            raise ValueError("there are no episodes to show")
        super().__init__(self._build())
        self._filter()
        self._list.observe(lambda _: self._open(), "value")
        self._open()

    def _build(self) -> list:
        names = list(self._by_policy)
        kinds = Counter(_kind(t) for keyed in self._by_policy.values() for t in keyed.values())
        only = {f"only {html.line(name, 30)} right": name for name in names}
        self._only = only if len(names) == 2 else {}

        def dropdown(description: str, options) -> Dropdown:
            style = {"description_width": "105px"}
            layout = Layout(width="260px")
            return Dropdown(options=options, description=description, layout=layout, style=style)

        self.of = dropdown("filters on", _options(names))
        self.correct = dropdown("answer", [ANY, "right", "wrong", *self._only])
        self.called = dropdown("zoom", [ANY, "with a zoom", "without"])
        self.kind = dropdown("kind", [(ANY, ANY), *_options(kinds)])
        bound = {"min": 0, "max": 1, "step": 0.05, "layout": Layout(width="170px")}
        self.iou_from = ipywidgets.BoundedFloatText(value=0, description="IoU from", **bound)
        self.iou_to = ipywidgets.BoundedFloatText(value=1, description="to", **bound)
        self.contains = ipywidgets.Text(description="contains", placeholder="text of the model")
        self.sort = dropdown("sort", list(SORTS))
        self.variant = dropdown("reward variant", list(VARIANTS))
        self._tokens = ipywidgets.Checkbox(description="show tokens and loss mask", value=False)
        size = Layout(width="430px")
        self._list = ipywidgets.Select(rows=16, description="episodes", layout=size)
        self._count, self._step, self._link = HTML(), ipywidgets.Label(), HTML()
        self._back = Button(description="Previous turn")
        self._forth = Button(description="Next turn")
        self._export = Button(description="Make a page", tooltip="This episode as one HTML file")
        column = Layout(flex="1 1 320px", max_width="520px")
        self._columns = {name: HTML(layout=column) for name in names}
        filters = [self.correct, self.called, self.kind, self.iou_from, self.iou_to, self.contains]
        for control in (self.of, *filters, self.sort):
            control.observe(lambda _: self._filter(), "value")
        for control in (self.variant, self._tokens):
            control.observe(lambda _: self._show(), "value")
        self._back.on_click(lambda _: self.step(-1))
        self._forth.on_click(lambda _: self.step(1))
        self._export.on_click(lambda _: self._offer())
        several = [self.of] if len(names) > 1 else []
        rows = [
            wrapped(self._back, self._forth, self._step, self._export, self._link, gap="0"),
            wrapped(self.variant, self._tokens, gap="0"),
            wrapped(*self._columns.values()),
        ]
        beside = ipywidgets.VBox(rows, layout=Layout(flex="1 1 480px"))
        filters = wrapped(*several, *filters, self.sort, gap="0")
        return [filters, self._count, wrapped(self._list, beside)]

    # --- what a reader does -------------------------------------------------------------------------

    def step(self, by: int) -> None:
        """Show one turn more, or one less."""
        self._turn = min(max(1, self._turn + by), self._turns)
        self._show()

    @property
    def episodes(self) -> dict[str, Trajectory]:
        """The episodes on show by the policy's name, with their images; empty if none passes."""
        key = self._list.value
        chosen = {n: keyed[key] for n, keyed in self._by_policy.items() if key in keyed}
        if (image := self._image(key[0]) if key else None) is None:
            return chosen
        # Cut when they are looked at, and not kept: a thousand scenes fill the memory.
        return {
            name: t if t.images else replace(t, images=[image, *crops_of(t, image)])
            for name, t in chosen.items()
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
        weights = VARIANTS[self.variant.value]
        return html.episode_page(episodes, weights, self._rates_here(), self.tokenizer)

    # --- how it looks -------------------------------------------------------------------------------

    def _image(self, name: str):
        if self._images is None or isinstance(self._images, dict):
            return (self._images or {}).get(name)
        return self._images[self._places[name]]["image"] if name in self._places else None

    def _filter(self) -> None:
        episodes = self._by_policy[self.of.value]
        keys = [key for key in self._keys if key in episodes and self._passes(key)]
        keys.sort(key=lambda key: SORTS[self.sort.value](episodes[key]))
        accuracy = interval(share(sum(episodes[key].correct for key in keys), len(keys)))
        count = f"{len(keys):,} of {len(episodes):,} episodes"
        self._count.value = f"<b>{count}</b>; right: {accuracy}"
        self._list.options = [(_label(key, episodes[key]), key) for key in keys]
        if keys and self._list.index is None:  # at the start, and after a filter that none passed
            self._list.index = 0

    def _passes(self, key: Key) -> bool:
        t = self._by_policy[self.of.value][key]
        answer, low, high = self.correct.value, self.iou_from.value, self.iou_to.value
        right = [n for n, keyed in self._by_policy.items() if key in keyed and keyed[key].correct]
        text = "\n".join(turn.text for turn in t.turns).casefold()
        return (
            (answer not in ("right", "wrong") or t.correct == (answer == "right"))
            and (answer not in self._only or right == [self._only[answer]])
            and (self.called.value == ANY or t.called == (self.called.value == "with a zoom"))
            and self.kind.value in (ANY, _kind(t))
            and ((low, high) == (0, 1) or (t.best_iou is not None and low <= t.best_iou <= high))
            and self.contains.value.casefold() in text
        )

    def _open(self) -> None:
        self._turns = max((len(t.turns) for t in self.episodes.values()), default=1) or 1
        self._turn = self._turns
        self._show()

    def _show(self) -> None:
        self._link.value = ""
        self._step.value = f"turns 1 to {self._turn} of {self._turns}"
        self._back.disabled, self._forth.disabled = self._turn <= 1, self._turn >= self._turns
        episodes = self.episodes
        self._export.disabled = not episodes
        for name, column in self._columns.items():
            if name in episodes:
                column.value = self._column(name, episodes[name])
            else:
                column.value = "" if episodes else "<p>No episode passes the filters.</p>"

    def _column(self, name: str, t: Trajectory) -> str:
        question = html.excerpt(t.sample.get("question", ""), 300)
        text = Markup("<h3>{}</h3><p>{}</p>").format(html.excerpt(name, 60), question)
        text += html.picture(t, self._turn) + html.turns(t, self._turn)
        if self._turn >= len(t.turns):
            parts = html.parts(VARIANTS[self.variant.value], t, self._rates_here()[name])
            text += Markup("<p><b>{}</b></p>").format(html.excerpt(html.verdict(t), 200))
            text += html.reward_table(parts)
        return text + html.tokens(t, self.tokenizer) if self._tokens.value else text

    def _rates_here(self) -> dict[str, float]:
        """The call rate of each policy in the group of the episode on show."""
        name, _ = self._list.value
        return {policy: rates.get(name, 0.0) for policy, rates in self._rates.items()}

    def _offer(self) -> None:
        """A link to the page: it is stored where the reader is, which need not be where the kernel is."""
        name = re.sub(r"[^\w.-]+", "_", self._list.value[0])[:60]
        self._link.value = Markup(
            '<a download="episode-{}.html" href="data:text/html;charset=utf-8,{}">Download the page</a>'
        ).format(name, quote(self.page()))

    # --- for readers without a kernel ---------------------------------------------------------------

    def picture(self) -> Figure:
        """The episode on show as strips, one for each policy; blank where there is no image."""
        episodes = {name: t for name, t in self.episodes.items() if t.images}
        return episode_strips(episodes) if episodes else Figure(figsize=(4, 1))

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        episodes = self.episodes
        text = f"Trajectory viewer, {len(self._keys)} episodes."
        for t in list(episodes.values())[:1]:
            text += f" {html.line(t.sample.get('question', ''))}"
        for name, t in episodes.items():
            text += f" {html.line(name, 30)}: {html.line(html.verdict(t))}."
        return text


def _kind(t: Trajectory) -> str:
    return str(t.sample.get("kind", "?"))


def _label(key: Key, t: Trajectory) -> str:
    """An episode in the list: ``test-0: K (right), 1 zoom, best IoU 0.31``."""
    return f"{html.line(key[0], 24)}: {html.answer_text(t, 12)}, {html.zoom_text(t)}"


def _options(names) -> list[tuple[str, str]]:
    return [(html.line(name, 40), str(name)) for name in names]
