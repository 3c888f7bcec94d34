"""Turn the reward's weights and see what the advantages of recorded groups become."""

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from markupsafe import Markup

from deepeyes_lite.rewards import VARIANTS, advantages
from deepeyes_lite.trajectories import Trajectory
from deepeyes_lite.viz import html
from deepeyes_lite.viz.widgets.explorable import Explorable

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
ONES = dict.fromkeys(DIALS, 1.0)


class RewardLab(Explorable):
    """Sliders for the weights and for p_zoom and p_direct, over groups of recorded episodes.

    What each reward function gives an episode is computed here, by `rewards`; the page multiplies it by the
    weights.
    """

    title = "The reward under your hands"

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

    @cached_property
    def data(self) -> dict:
        """The episodes of every group with what each reward function gives them."""
        return {
            "dials": [
                {"key": name, "label": html.PARTS[name], "max": most}
                for name, most in DIALS.items()
            ],
            "variants": VARIANTS,
            "chances": {"p_zoom": self._measured(True), "p_direct": self._measured(False)},
            "groups": [
                {
                    "name": html.line(name, 30),
                    "question": html.excerpt(group[0].sample.get("question", ""), 200),
                    "episodes": [*map(self._episode, group, [_rate(group)] * len(group))],
                }
                for name, group in self.groups.items()
            ],
        }

    def _measured(self, called: bool) -> dict:
        """The share of right answers with a zoom, or without, over all groups; and of how many."""
        correct = [t.correct for g in self.groups.values() for t in g if t.called == called]
        return {"share": sum(correct) / len(correct) if correct else None, "n": len(correct)}

    def _episode(self, t: Trajectory, rate: float) -> dict:
        return {
            "correct": t.correct,
            "called": t.called,
            "verdict": html.excerpt(html.verdict(t), 120),
            "parts": html.parts(ONES, t, rate),
        }

    @property
    def still(self) -> Markup:
        """The first group under the paper's reward, as a table."""
        group = next(iter(self.groups.values()))
        parts = [html.parts(VARIANTS["conditional"], t, _rate(group)) for t in group]
        rewards = [sum(each.values()) for each in parts]
        row = Markup("<tr><td>{}</td><td>{:.2f}</td><td>{:+.2f}</td></tr>")
        rows = zip((html.line(html.verdict(t)) for t in group), rewards, advantages(rewards))
        head = Markup(
            "<table><tr><th>how it ended</th><th>reward</th><th>advantage</th></tr>{}</table>"
        )
        return head.format(Markup("").join(row.format(*cells) for cells in rows))


def _rate(group: list[Trajectory]) -> float:
    return sum(t.called for t in group) / len(group)
