"""Accuracy, format and tool bonus; the arms of the ablation as values; the collapse inequality.

The weights are those of DeepEyes' public code (``verl/utils/reward_score/vl_agent.py``):
``0.8 * accuracy + 0.2 * format + 1.2 * tool``, with accuracy 0 or 1, format 0 or -1, and the tool term
1 only where the answer is right *and* the tool was used. The paper's formula prints no weights.
One deviation: there a missing answer tag is no format error, here it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One reward variant: weights, nothing else.

    Attributes:
        accuracy: for a correct answer.
        format: taken off for a reply that breaks the format.
        bonus_if_correct: for a correct answer with at least one answered call.
        bonus_always: for at least one answered call, whatever the answer.
        bonus_iou: times the best IoU of a call with a target box.
        curiosity: for an episode with a call, times what its group's call rate lacks to ``call_target``.
        call_target: share of a group's episodes that curiosity wants to see calling.
        excess: taken off for every call beyond the first.
        tool: whether prompts offer the tool at all.
    """

    accuracy: float = 0.8
    format: float = 0.2
    bonus_if_correct: float = 0.0
    bonus_always: float = 0.0
    bonus_iou: float = 0.0
    curiosity: float = 0.0
    call_target: float = 0.3
    excess: float = 0.0
    tool: bool = True


ARMS = {
    "conditional": Arm(bonus_if_correct=1.2),  # the paper; weights of the public code
    "unconditional": Arm(bonus_always=0.4),  # an alternative left commented out in the public code
    "none": Arm(),  # the paper's ablation: accuracy and format only
    "text_only": Arm(tool=False),  # the paper's ablation: RL on reasoning in text, no tool
    # Pixel Reasoner; its constants as re-implemented in verl-tool's reward_manager/pixel_reasoner.py.
    "curiosity": Arm(curiosity=0.5, call_target=0.3, excess=0.05),
    "iou": Arm(bonus_iou=1.2),  # no paper's: supervised boxes, an upper bound for the others
}


def arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        ValueError: naming the arms there are.
    """
    if name not in ARMS:
        raise ValueError(f"unknown arm {name!r}; there are {', '.join(ARMS)}")
    return ARMS[name]


def reward(
    arm: Arm,
    correct: bool,
    well_formed: bool,
    calls: int,
    best_iou: float = 0.0,
    group_call_rate: float = 0.0,
) -> float:
    """Reward of one episode.

    Args:
        arm: the weights.
        correct: whether the answer is right.
        well_formed: whether every turn keeps the format.
        calls: answered calls.
        best_iou: greatest IoU of a call with a target box, 0 where there is none.
        group_call_rate: share of the episodes of the same question that called.

    >>> reward(ARMS["conditional"], True, True, 1), reward(ARMS["conditional"], True, True, 0)
    (2.0, 0.8)
    >>> reward(ARMS["conditional"], False, True, 3), reward(ARMS["unconditional"], False, True, 3)
    (0.0, 0.4)
    >>> round(reward(ARMS["curiosity"], True, True, 2, group_call_rate=0.125), 4)
    0.8375
    """
    used = calls > 0
    return (
        arm.accuracy * correct
        - arm.format * (not well_formed)
        + arm.bonus_if_correct * (correct and used)
        + arm.bonus_always * used
        + arm.bonus_iou * best_iou
        + arm.curiosity * max(0.0, arm.call_target - group_call_rate) * used
        - arm.excess * max(0, calls - 1)
    )


def least_bonus(p_zoom: float, p_direct: float, accuracy: float = Arm.accuracy) -> float:
    """The least conditional bonus b* with which zooming grows, to first order.

    A call pays ``(a + b) * p_zoom``, answering at once ``a * p_direct``; zooming grows only while the
    first is greater, so ``b* = a * (p_direct / p_zoom - 1)``. A negative b* means that zooming pays by
    itself. A first-order account: the boxes (and with them ``p_zoom``) improve while the policy calls.

    Args:
        p_zoom: probability of a correct answer given a zoom.
        p_direct: probability of a correct answer given none.
        accuracy: weight of accuracy, a.

    Returns:
        b*; infinite where a zoom never leads to a correct answer, NaN where either is unknown (NaN).

    >>> round(least_bonus(p_zoom=0.4, p_direct=0.5), 3), least_bonus(0.0, 0.5)
    (0.2, inf)
    """
    if p_zoom != p_zoom or p_direct != p_direct:
        return float("nan")
    return accuracy * (p_direct / p_zoom - 1) if p_zoom > 0 else float("inf")
