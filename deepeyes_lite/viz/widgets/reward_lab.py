"""Turn the reward's weights and see what the advantages of recorded groups become."""

import math
from collections import defaultdict
from collections.abc import Iterable

from ipywidgets import HTML, Dropdown, HBox, Layout, VBox
from matplotlib.figure import Figure

from deepeyes_lite.rewards import VARIANTS, advantages, least_bonus
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import BLUE, GREY, ORANGE, image_tag
from deepeyes_lite.viz.widgets.controls import Panel, Slider

# The dials: a reward function, and the greatest weight that its dial gives it.
DIALS = {
    "accuracy_reward": 2.0,
    "format_reward": 1.0,
    "tool_bonus": 2.0,
    "call_bonus": 2.0,
    "iou_reward": 2.0,
    "curiosity_bonus": 1.0,
    "excess_calls": 0.5,
}
OWN = "my own weights"
LIMIT = 2.5  # the axes of the phase diagram; a point beyond stands at the edge


class RewardLab(Panel):
    """Sliders for the weights and for p_zoom and p_direct, over groups of recorded episodes."""

    def __init__(self, trajectories: Iterable[Trajectory]):
        """Args: recorded episodes, several of each question: episodes of one sample id are a group.

        Raises:
            ValueError: if no question has two episodes.
        """
        by_id = defaultdict(list)
        for trajectory in map(html.checked, trajectories):
            by_id[str(trajectory.sample.get("id"))].append(trajectory)
        self.groups = {name: group for name, group in by_id.items() if len(group) > 1}
        if not self.groups:
            raise ValueError(
                "an advantage needs a group: roll out several episodes of the same sample"
            )
        self.p_zoom_measured, self.p_direct_measured = self._measured()
        self._build()
        self.variant.value = "conditional"
        super().__init__(self._children)

    def _build(self) -> None:
        wide = Layout(width="330px")
        self.variant = Dropdown(
            options=[*VARIANTS, OWN], value=None, description="variant", layout=wide
        )
        names = [(f"{html.line(name, 30)} ({len(g)})", name) for name, g in self.groups.items()]
        self.group = Dropdown(options=names, description="group", layout=wide)
        self.dials = {
            name: Slider(label=name, max=most, step=0.05, value=0.0) for name, most in DIALS.items()
        }
        start = {"p_zoom": self.p_zoom_measured[0], "p_direct": self.p_direct_measured[0]}
        self.chances = {
            name: Slider(label=name, step=0.01, value=0.5 if math.isnan(p) else round(p, 2))
            for name, p in start.items()
        }
        self._table, self._figure = HTML(), HTML(layout=Layout(max_width="760px"))
        self._setting = False
        self.variant.observe(lambda change: self._set_variant(change.new), "value")
        self.group.observe(lambda _: self._show(), "value")
        for dial in self.dials.values():
            dial.observe(lambda _: self._turned(), "value")
        for chance in self.chances.values():
            chance.observe(lambda _: self._show(), "value")
        left = [self.variant, *self.dials.values(), *self.chances.values(), self.group]
        wrap = Layout(flex_flow="row wrap", grid_gap="20px")
        self._children = [
            HBox([VBox(left, layout=Layout(width="400px")), self._figure], layout=wrap),
            self._table,
        ]

    def _measured(self) -> tuple[tuple[float, int], tuple[float, int]]:
        """p_zoom and p_direct over all groups, each with its count."""
        found = []
        for called in (True, False):
            right = [t.correct for g in self.groups.values() for t in g if t.called == called]
            found.append((sum(right) / len(right) if right else math.nan, len(right)))
        return tuple(found)

    # --- what the dials say -------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """The weights as they stand, by the name of the reward function."""
        return {name: dial.value for name, dial in self.dials.items() if dial.value}

    @property
    def parts(self) -> list[dict[str, float]]:
        """The reward of each episode of the group in its parts."""
        group = self.groups[self.group.value]
        rate = sum(t.called for t in group) / len(group)
        return [html.parts(self.weights, t, rate) for t in group]

    @property
    def advantages(self) -> list[float]:
        """What GRPO would make of these rewards."""
        return advantages([sum(found.values()) for found in self.parts])

    @property
    def point(self) -> tuple[float, float]:
        """b* and b: where the run would stand in the phase diagram.

        A bonus u that is paid for every zoom is worth u / p_zoom for every right one.
        """
        p_zoom, p_direct = (self.chances[name].value for name in ("p_zoom", "p_direct"))
        weights = self.weights
        bonus = weights.get("tool_bonus", 0.0)
        if "call_bonus" in weights:
            bonus += weights["call_bonus"] / p_zoom if p_zoom else math.inf
        return least_bonus(p_zoom, p_direct, weights.get("accuracy_reward", 0.0)), bonus

    def _set_variant(self, name: str) -> None:
        if name == OWN:
            return
        self._setting = True
        for reward, dial in self.dials.items():
            dial.value = VARIANTS[name].get(reward, 0.0)
        self._setting = False
        self._show()

    def _turned(self) -> None:
        if not self._setting:
            self.variant.value = OWN
            self._show()

    # --- how it looks -------------------------------------------------------------------------------

    @property
    def verdict(self) -> str:
        """What the collapse inequality says, in words."""
        needed, bonus = self.point
        says = "grows" if bonus > needed else "dies"
        p_zoom, p_direct = (self.chances[name].value for name in ("p_zoom", "p_direct"))
        return (
            f"With p_zoom {p_zoom:.2f} and p_direct {p_direct:.2f} the least bonus b* is {needed:.2f}; "
            f"the bonus is {bonus:.2f}: to first order zooming {says}."
        )

    def _show(self) -> None:
        rows = []
        group = self.groups[self.group.value]
        for number, (t, found, advantage) in enumerate(zip(group, self.parts, self.advantages), 1):
            split = ", ".join(
                f"{html.PARTS[name]} {value:+.2f}" for name, value in found.items() if value
            )
            rows.append(
                f"<tr><td>{number}</td><td>{html.excerpt(html.verdict(t), 120)}</td>"
                f"<td>{split or 'nothing'}</td><td>{sum(found.values()):.2f}</td>"
                f"<td><b>{advantage:+.2f}</b></td></tr>"
            )
        (p_zoom, zooms), (p_direct, direct) = self.p_zoom_measured, self.p_direct_measured
        question = html.excerpt(group[0].sample.get("question", ""), 200)
        self._table.value = (
            f"<p><b>{self.verdict}</b> Measured in these {len(self.groups)} groups: p_zoom {p_zoom:.2f} "
            f"({zooms} episodes), p_direct {p_direct:.2f} ({direct}).</p><p>{question}</p>"
            "<table><tr><th>episode</th><th>how it ended</th><th>parts</th><th>reward</th>"
            f"<th>advantage</th></tr>{''.join(rows)}</table>"
        )
        self._figure.value = image_tag(self.picture(), self.alt, dpi=80)

    def picture(self) -> Figure:
        """The advantages of the group, and the phase diagram with the point."""
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        group = self.groups[self.group.value]
        for number, (t, advantage) in enumerate(zip(group, self.advantages), 1):
            color, hatch = (BLUE, "") if t.called else (ORANGE, "//")
            left.bar(number, advantage, color=color, hatch=hatch, edgecolor="white")
        for color, hatch, label in ((BLUE, "", "with a zoom"), (ORANGE, "//", "without")):
            left.bar(0, 0, color=color, hatch=hatch, edgecolor="white", label=label)
        words = [f"{n}\n{'right' if t.correct else 'wrong'}" for n, t in enumerate(group, 1)]
        left.set_xticks(range(1, len(group) + 1), words, fontsize=9)
        left.axhline(0, color=GREY, linewidth=1)
        left.set(title="advantages of the group", xlabel="episode", ylabel="advantage")
        left.set(xlim=(0.3, len(group) + 0.7), ylim=(-2.8, 2.8))
        left.legend(fontsize=9, ncols=2, loc="lower center")
        _draw_phases(right, -1.0, LIMIT)
        x, y = (min(max(value, -1.0), LIMIT) for value in self.point)
        right.plot(x, y, "o", color="black", markersize=11)
        right.annotate("you", (x, y), (9, -4), textcoords="offset points", fontsize=11)
        right.set(title="the collapse inequality", xlabel="least bonus b*", ylabel="bonus b")
        return figure

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        told = ", ".join(f"{advantage:+.2f}" for advantage in self.advantages[:16])
        return f"Left, the advantages of a group: {told}. Right, the phase diagram. {self.verdict}"


def _draw_phases(axes, low: float, high: float) -> None:
    """The line of the collapse inequality between two bonuses, and what it says on either side."""
    axes.plot([low, high], [low, high], color=GREY, linewidth=1.5)
    axes.fill_between([low, high], [low, high], high, color=BLUE, alpha=0.07)
    axes.text(low + 0.05, high - 0.05, "predicted: grows", va="top", color=BLUE)
    axes.text(high - 0.05, low + 0.05, "predicted: dies", ha="right", color=ORANGE)
    axes.set(xlabel="least bonus b* measured before training", ylabel="bonus b of the run")
    axes.set(xlim=(low, high), ylim=(low, high))
