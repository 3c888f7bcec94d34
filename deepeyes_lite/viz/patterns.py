"""What a policy does with its zooms, by query: four thinking patterns, and the ways to fail.

DeepEyes names four thinking patterns and shows an example of each (arXiv 2505.14362, *thinking patterns*;
the captions on its project page). It does not define or count them. Here each is a function that says
yes or no to an episode, from boxes and answers alone, so that it comes with a count; what a policy
*writes* about its intentions is not read. Where a definition had to choose, its docstring says how.
"""

from collections.abc import Callable, Iterable
from itertools import combinations

from deepeyes_lite.boxes import Box
from deepeyes_lite.trajectories import Trajectory

# Share of a target's area from which on a crop counts as showing the target: notebook 07 measures that
# letters are read from a half on, and guessed below.
MIN_COVERED = 0.5
WIDE = 0.05  # IoU below which a crop is too wide: its target fills less than a twentieth of it


def covered(box_px: Box, target_px: Box) -> float:
    """Share of the target's area that lies inside the box.

    IoU would punish a generous crop, which shows its target all the same.

    >>> covered((0, 0, 100, 100), (90, 0, 110, 20)), covered((0, 0, 10, 10), (20, 20, 30, 30))
    (0.5, 0.0)
    """
    width = min(box_px[2], target_px[2]) - max(box_px[0], target_px[0])
    height = min(box_px[3], target_px[3]) - max(box_px[1], target_px[1])
    area = (target_px[2] - target_px[0]) * (target_px[3] - target_px[1])
    return max(0.0, width) * max(0.0, height) / area if area > 0 else 0.0


def looks(t: Trajectory) -> list[set[int]]:
    """For each target of the question, the numbers of the calls (from 0) whose crop shows the target.

    >>> from deepeyes_lite.trajectories import Turn
    >>> turns = [Turn("", [(0, 0, 9, 9)]), Turn("", [(50, 50, 90, 90)])]
    >>> looks(Trajectory({"boxes_px": [[60, 60, 70, 70], [200, 0, 210, 10]]}, turns=turns))
    [{1}, set()]
    """
    return [
        {number for number, box in enumerate(t.boxes_px) if covered(box, target) >= MIN_COVERED}
        for target in t.sample.get("boxes_px") or []
    ]


def looked(t: Trajectory) -> bool:
    """Whether every target of the question is shown by some crop; without known targets, False."""
    calls = looks(t)
    return bool(calls) and all(calls)


# --- the four patterns: an episode, and the answer to the same question without the tool ------------


def visual_search(t: Trajectory, direct: Trajectory | None = None) -> bool:
    """*Visual search*: scan regions until the thing is found.

    Here: the first crop does not show the target, and a later one does. Only where there is one target: of
    two, nobody can say which one the first zoom was after.
    """
    calls = looks(t)
    return len(calls) == 1 and bool(calls[0]) and 0 not in calls[0]


def visual_comparison(t: Trajectory, direct: Trajectory | None = None) -> bool:
    """*Visual comparison*: zoom on several things in turn, then compare.

    Here: two targets are shown by two different crops. One crop that shows both is one look.
    """
    return any(i != j for a, b in combinations(looks(t), 2) for i in a for j in b)


def visual_confirmation(t: Trajectory, direct: Trajectory | None = None) -> bool:
    """*Visual confirmation*: the answer was there already, and the zoom checks it.

    Here: right at once without the tool, and with it right again, after a look at every target. From
    outside it cannot be told from a habit of zooming: the conditional bonus pays for both.
    """
    return direct is not None and direct.correct and t.correct and looked(t)


def hallucination_mitigation(t: Trajectory, direct: Trajectory | None = None) -> bool:
    """*Hallucination mitigation*: without a look it sees what is not there, with one it does not.

    Here: asked for something that is not in the scene (kind ``exists``), it says "yes" without the tool,
    and "no" after a look at the place that might be taken for it.
    """
    absent = t.sample.get("kind") == "exists" and t.sample.get("answer") == "no"
    return absent and direct is not None and direct.answer == "yes" and t.correct and looked(t)


PATTERNS: dict[str, Callable[[Trajectory, Trajectory | None], bool]] = {
    "visual search": visual_search,
    "visual comparison": visual_comparison,
    "visual confirmation": visual_confirmation,
    "hallucination mitigation": hallucination_mitigation,
}


# --- the failure gallery ----------------------------------------------------------------------------

FAILURES = {
    "malformed": "a turn breaks the format, or there is no answer",
    "never called": "it answered from the view",
    "wrong place": "no crop shows a target",
    "part of it": "some targets are shown, not all",
    "too wide": "every target is shown, but fills less than a twentieth of its crop",
    "misread": "every target is shown, and the answer is wrong",
}


def failure(t: Trajectory) -> str | None:
    """What went wrong: the first of ``FAILURES`` that fits; None if the answer is right.

    Without known targets a wrong place cannot be told from a misread crop; it is "wrong place".
    """
    if t.correct:
        return None
    if not t.well_formed or t.answer is None:
        return "malformed"
    if not t.called:
        return "never called"
    calls = looks(t)
    if not any(calls):
        return "wrong place"
    if not all(calls):
        return "part of it"
    return "too wide" if (t.best_iou or 0.0) < WIDE else "misread"


# --- over many episodes -----------------------------------------------------------------------------


def beside(
    episodes: Iterable[Trajectory], direct: Iterable[Trajectory]
) -> list[tuple[Trajectory, Trajectory]]:
    """Episodes beside the answer to the same question without the tool.

    Raises:
        ValueError: if a question has no direct answer.
    """
    by_question = {(t.sample.get("kind"), t.sample.get("id")): t for t in direct}
    pairs = []
    for t in episodes:
        key = t.sample.get("kind"), t.sample.get("id")
        if key not in by_question:
            raise ValueError(f"{key[1]} ({key[0]}) has no direct answer; roll it out with tool off")
        pairs.append((t, by_question[key]))
    return pairs


def matches(pairs: list[tuple[Trajectory, Trajectory]]) -> dict[str, list[bool]]:
    """Which of the pairs of `beside` show which pattern.

    >>> matches([])["visual search"]
    []
    """
    return {name: [pattern(*pair) for pair in pairs] for name, pattern in PATTERNS.items()}
