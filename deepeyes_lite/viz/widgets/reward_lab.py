"""Turn the reward's weights and see what the advantages of recorded groups become."""

import math
from collections import defaultdict
from collections.abc import Iterable

from ipywidgets import HTML, Dropdown, Layout, VBox
from matplotlib.figure import Figure

from deepeyes_lite.rewards import VARIANTS, advantages, least_bonus
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import BLUE, GREY, ORANGE, html
from deepeyes_lite.viz.plots import image_tag
from deepeyes_lite.viz.widgets.controls import Panel, Slider, wrapped

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
LOW, HIGH = -1.0, 2.5  # the axes of the phase diagram; a point beyond stands at the edge


class RewardLab(Panel):
    """Sliders for the weights and for p_zoom and p_direct, over groups of recorded episodes."""

    def __init__(self, trajectories: Iterable[Trajectory]):
        """Open recorded episodes.

        Args:
            trajectories: several episodes of each question; episodes of one sample id are a group.

        Raises:
            ValueError: if no question has two episodes.
        """
        by_id = defaultdict(list)
        for trajectory in map(html.checked, trajectories):
            by_id[str(trajectory.sample.get("id"))].append(trajectory)
        self.groups = {name: group for name, group in by_id.items() if len(group) > 1}
        if not self.groups:
            message = "an advantage needs a group: roll out several episodes of the same sample"
            raise ValueError(message)
        self.measured = {"p_zoom": self._measure(True), "p_direct": self._measure(False)}
        wide = {"layout": Layout(width="330px"), "style": {"description_width": "105px"}}
        self.variant = Dropdown(
            options=[*VARIANTS, OWN], value=None, description="reward variant", **wide
        )
        names = [(f"{html.line(name, 30)} ({len(g)})", name) for name, g in self.groups.items()]
        self.group = Dropdown(options=names, description="group", **wide)
        self.dials = {name: Slider(label=name, max=most) for name, most in DIALS.items()}
        self.chances = {
            name: Slider(label=name, step=0.01, value=0.5 if math.isnan(p) else round(p, 2))
            for name, (p, _) in self.measured.items()
        }
        self._table, self._figure = HTML(), HTML(layout=Layout(max_width="760px"))
        self._setting = False
        self.variant.observe(lambda change: self._set_variant(change.new), "value")
        for dial in self.dials.values():
            dial.observe(lambda _: self._turned(), "value")
        for control in (self.group, *self.chances.values()):
            control.observe(lambda _: self._show(), "value")
        self.variant.value = "conditional"
        controls = [self.variant, *self.dials.values(), *self.chances.values(), self.group]
        left = VBox(controls, layout=Layout(width="400px"))
        super().__init__([wrapped(left, self._figure), self._table])

    def _measure(self, called: bool) -> tuple[float, int]:
        """The share of right answers with a zoom, or without, over all groups; and of how many."""
        correct = [t.correct for g in self.groups.values() for t in g if t.called == called]
        return sum(correct) / len(correct) if correct else math.nan, len(correct)

    # --- what the dials say -------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, float]:
        """The weights as they stand, by the name of the reward function."""
        return {name: dial.value for name, dial in self.dials.items() if dial.value}

    @property
    def episodes(self) -> list[Trajectory]:
        """The episodes of the group."""
        return self.groups[self.group.value]

    @property
    def parts(self) -> list[dict[str, float]]:
        """The reward of each episode of the group in its parts."""
        rate = sum(t.called for t in self.episodes) / len(self.episodes)
        return [html.parts(self.weights, t, rate) for t in self.episodes]

    @property
    def advantages(self) -> list[float]:
        """What GRPO would make of these rewards."""
        return advantages([sum(parts.values()) for parts in self.parts])

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
        least, bonus = self.point
        p_zoom, p_direct = (self.chances[name].value for name in ("p_zoom", "p_direct"))
        return (
            f"With p_zoom {p_zoom:.2f} and p_direct {p_direct:.2f} the least bonus b* is {least:.2f}; "
            f"the bonus is {bonus:.2f}: to first order zooming {'grows' if bonus > least else 'dies'}."
        )

    def _show(self) -> None:
        rows = zip(self.episodes, self.parts, self.advantages)
        group = html.TEMPLATES.get_template("group.jinja")
        self._table.value = group.render(lab=self, rows=rows)
        self._figure.value = image_tag(self.picture(), self.alt, dpi=80)

    def picture(self) -> Figure:
        """The advantages of the group, and the phase diagram with the point."""
        figure = Figure(figsize=(9, 3.9), layout="constrained")
        bars, phases = figure.subplots(1, 2)
        _draw_advantages(bars, self.episodes, self.advantages)
        _draw_phases(phases)
        x, y = (min(max(value, LOW), HIGH) for value in self.point)
        phases.plot(x, y, "o", color="black", markersize=11)
        phases.annotate("you", (x, y), (9, -4), textcoords="offset points", fontsize=11)
        return figure

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        bars = ", ".join(f"{advantage:+.2f}" for advantage in self.advantages[:16])
        return f"Left, the advantages of a group: {bars}. Right, the phase diagram. {self.verdict}"


def _draw_advantages(axes, episodes: list[Trajectory], advantages: list[float]) -> None:
    """A bar for each episode of a group."""
    looks = {True: (BLUE, "", "with a zoom"), False: (ORANGE, "//", "without")}
    numbers = range(1, len(episodes) + 1)
    colors, hatches, _ = zip(*(looks[t.called] for t in episodes))
    axes.bar(numbers, advantages, color=colors, hatch=hatches, edgecolor="white")
    for color, hatch, label in looks.values():  # for the legend
        axes.bar(0, 0, color=color, hatch=hatch, edgecolor="white", label=label)
    labels = [f"{n}\n{'right' if t.correct else 'wrong'}" for n, t in zip(numbers, episodes)]
    axes.set_xticks(numbers, labels, fontsize=9)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set(title="advantages of the group", xlabel="episode", ylabel="advantage")
    axes.set(xlim=(0.3, len(episodes) + 0.7), ylim=(-2.8, 2.8))
    axes.legend(fontsize=9, ncols=2, loc="lower center")


def _draw_phases(axes) -> None:
    """The line of the collapse inequality, and what it says on either side."""
    axes.plot([LOW, HIGH], [LOW, HIGH], color=GREY, linewidth=1.5)
    axes.fill_between([LOW, HIGH], [LOW, HIGH], HIGH, color=BLUE, alpha=0.07)
    axes.text(LOW + 0.05, HIGH - 0.05, "predicted: grows", va="top", color=BLUE)
    axes.text(HIGH - 0.05, LOW + 0.05, "predicted: dies", ha="right", color=ORANGE)
    axes.set(title="the collapse inequality", xlabel="least bonus b*", ylabel="bonus b")
    axes.set(xlim=(LOW, HIGH), ylim=(LOW, HIGH))
