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
    """

    accuracy: float = 0.8
    format: float = 0.2
    bonus_if_correct: float = 0.0
    bonus_always: float = 0.0


ARMS = {
    "conditional": Arm(bonus_if_correct=1.2),  # the paper; weights of the public code
    "unconditional": Arm(bonus_always=0.4),  # an alternative left commented out in the public code
    "none": Arm(),  # the paper's ablation: accuracy and format only
}


def arm(name: str) -> Arm:
    """The arm of that name.

    Raises:
        ValueError: naming the arms there are.
    """
    if name not in ARMS:
        raise ValueError(f"unknown arm {name!r}; there are {', '.join(ARMS)}")
    return ARMS[name]


def reward(arm: Arm, correct: bool, well_formed: bool, calls: int) -> float:
    """Reward of one episode with ``calls`` answered calls.

    >>> reward(ARMS["conditional"], True, True, 1), reward(ARMS["conditional"], True, True, 0)
    (2.0, 0.8)
    >>> reward(ARMS["conditional"], False, True, 3), reward(ARMS["unconditional"], False, True, 3)
    (0.0, 0.4)
    """
    used = calls > 0
    return (
        arm.accuracy * correct
        - arm.format * (not well_formed)
        + arm.bonus_if_correct * (correct and used)
        + arm.bonus_always * used
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
