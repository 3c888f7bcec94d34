"""What the study runs: pure data, and one function that lists the runs, the most important first."""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from deepeyes_lite.config import RunConfig

SEEDS = {"conditional": 5, "unconditional": 5, "none": 5, "text_only": 3, "curiosity": 3, "iou": 3}
FULLY_MEASURED = ("conditional", "text_only")
# Whether calls grow or die shows early, and so does what a selection of questions saves. The third
# stage of C3, in which calls fall again, may come late.
SHORT_STEPS, MIDDLE_STEPS, LONG_STEPS = 40, 60, 200
# Where nine in ten details are legible, answering at once is mostly correct: the world in which calls die.
MOSTLY_LEGIBLE, LEGIBLE_VARIANTS = 0.9, ("none", "conditional")
# C11: short runs from the same base, on both sides of the line of `rewards.least_bonus`; and fresh ones,
# on which nothing was fitted. Name, shares of legible details, bonuses.
SWEEPS = (
    ("sweep", (0.1, 0.3, 0.5, 0.7, 0.9), (0.0, 0.4, 0.8, 1.2)),
    ("fresh", (0.2, 0.4, 0.6, 0.8), (0.0, 0.05, 0.2, 0.6, 1.0)),
)
# C11: a small bonus where nine in ten details are legible, with advantages as GRPO has them, and as
# Dr. GRPO has them: not divided by the group's deviation.
SMALL_BONUS = 0.05
DIVISIONS = (("divided", {}), ("undivided", {"scale_rewards": "none"}))
# C7: what the training questions are selected by. All are drawn from the same corrupted scenes.
SELECTIONS = ("unfiltered", "difficulty", "benefit", "both")


@dataclass(frozen=True)
class Run:
    """One run of the plan.

    Attributes:
        group: what the run is for; runs of a group differ in their seed, or lie on one plane ("sweep").
        config: what is trained.
        measured: how the run is measured afterwards: "full" (every control, and other sets of scenes),
            "controls" (`evaluation.evaluate_run`) or "history" (not at all).
    """

    group: str
    config: RunConfig
    measured: str = "controls"

    @property
    def files(self) -> tuple[str, ...]:
        """What is kept of the run's folder."""
        files = {"history": (), "controls": ("evaluation.json", "episodes.csv")}
        files["full"] = (*files["controls"], "transfer.csv")
        return ("config.json", "history.csv", *files[self.measured])


def plan(base: RunConfig, data: Path) -> dict[str, Run]:
    """Name and run, the most important first.

    Args:
        base: what all runs share; its seed is the first one's. The sweeps keep their seeds.
        data: folder of the selected training questions, see `run.prepare`.
    """
    runs, first = {}, base.seed

    def add(group: str, measured: str = "controls", name: str = "", **changes) -> None:
        config = replace(base, **changes)
        runs[name or f"{group}-{config.seed}"] = Run(group, config, measured)

    def seeds(n: int) -> range:
        return range(first, first + n)

    for seed in seeds(max(SEEDS.values())):
        for reward, n in SEEDS.items():
            if seed in seeds(n):
                measured = "full" if reward in FULLY_MEASURED else "controls"
                add(reward, measured, reward=reward, seed=seed)
    mostly_legible = {"steps": MIDDLE_STEPS, "legible_share": MOSTLY_LEGIBLE}
    for seed, reward in product(seeds(5), LEGIBLE_VARIANTS):
        add(f"legible-{reward}", reward=reward, seed=seed, **mostly_legible)
    for seed, (group, shares, bonuses) in enumerate(SWEEPS):
        for share, bonus in product(shares, bonuses):
            world = {"steps": SHORT_STEPS, "legible_share": share, "bonus": bonus, "seed": seed}
            add(group, "history", f"{group}-{share:.2f}-{bonus:.2f}", **world)
    for seed, (group, trl) in product(seeds(3), DIVISIONS):
        add(group, "history", bonus=SMALL_BONUS, seed=seed, trl=trl, **mostly_legible)
    for seed, name in product(seeds(5), SELECTIONS):
        add(f"data-{name}", steps=MIDDLE_STEPS, data=str(data / name), seed=seed)
    for seed in seeds(3):
        add("long", steps=LONG_STEPS, seed=seed)
    return runs
