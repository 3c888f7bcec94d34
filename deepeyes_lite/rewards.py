"""Accuracy, format and tool bonus as TRL reward functions; reward variants as their weights.

The weights are those of DeepEyes' public code (``verl/utils/reward_score/vl_agent.py``):
``0.8 * accuracy + 0.2 * format + 1.2 * tool``, with accuracy 0 or 1, format 0 or -1, and the tool term
1 only where the answer is correct *and* the tool was used. The paper's formula prints no weights.

``docs/deviations.md`` lists where ours deviates, and why: rules judge instead of a 72B model, a turn keeps
the format by itself, and only a call that was answered with a crop counts as one. The list is tested
against their arithmetic.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from statistics import stdev

from deepeyes_lite import prompts
from deepeyes_lite.trajectories import best_iou
from deepeyes_lite.verifiers import check_answer, extract_answer, well_formed

ACCURACY_WEIGHT = 0.8
CALL_TARGET = 0.3  # share of a group's episodes that curiosity wants to see calling


@dataclass(frozen=True)
class Outcome:
    """What a reward looks at in an episode.

    Attributes:
        correct: whether the answer is correct.
        well_formed: whether every turn keeps the format.
        calls: answered calls.
        best_iou: greatest IoU of a call with a target box, 0 where there is none.
        group_call_rate: share of the episodes of the same question that called.
        attempts: calls that the model began to write, answered or not.
        group_direct: share of correct ones among the direct answers to the same question; 0 without any.
        forced: the tag that the rollout had to write, see `training.ZoomTrainer`; empty for a free one.
    """

    correct: bool
    well_formed: bool
    calls: int
    best_iou: float = 0.0
    group_call_rate: float = 0.0
    attempts: int = 0
    group_direct: float = 0.0
    forced: str = ""


def read_outcomes(
    completion_ids: list[list[int]],
    environments: list,
    tokenizer,
    id: list[str],
    answer: list[str],
    boxes_px: list[list],
    options: list[list[str]],
    verifier: list[str],
    **_,
) -> list[Outcome]:
    """The outcomes of a batch of rollouts, from what TRL hands to a reward function.

    Args:
        completion_ids: (B, tokens) of every rollout, the model's turns and the observations.
        environments: of every rollout, `tools.ZoomTool` or `tools.NoTool`.
        tokenizer: of the model.
        id, answer, boxes_px, options, verifier: columns of the data set, a value a rollout.
    """
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=False)  # (B,)
    turns = [prompts.split_turns(text) for text in texts]  # (B, turns)
    correct = [
        check_answer(
            extract_answer(reply[-1]), {"answer": truth, "options": shown, "verifier": rule}
        )
        for reply, truth, shown, rule in zip(turns, answer, options, verifier, strict=True)
    ]
    asked = Counter(id)
    zoomed = Counter(question for question, zoom in zip(id, environments) if zoom.boxes_px)
    direct = defaultdict(list)  # of each question, whether its direct answers are correct
    for question, zoom, is_correct in zip(id, environments, correct):
        if not zoom.boxes_px:
            direct[question].append(is_correct)
    return [
        Outcome(
            is_correct,
            well_formed(reply),
            len(zoom.boxes_px),
            best_iou(zoom.boxes_px, targets) or 0.0,
            zoomed[question] / asked[question],
            text.count("<tool_call>"),
            sum(direct[question]) / max(1, len(direct[question])),
            zoom.forced,
        )
        for text, reply, zoom, question, is_correct, targets in zip(
            texts, turns, environments, id, correct, boxes_px, strict=True
        )
    ]


def for_trl(reward: Callable, tokenizer) -> Callable:
    """A reward function of outcomes as TRL calls it, for ``GRPOTrainer(reward_funcs=[…])``.

    Args:
        reward: takes ``outcomes`` and, if it wants them, the other keyword arguments that TRL gives.
        tokenizer: of the model.
    """

    @wraps(reward)
    def reward_func(completion_ids, environments, **columns) -> list[float]:
        outcomes = read_outcomes(completion_ids, environments, tokenizer, **columns)
        return reward(outcomes, completion_ids=completion_ids, environments=environments, **columns)

    return reward_func


# --- reward functions: one number an episode ----------------------------------------------------


def accuracy_reward(outcomes: list[Outcome], **_) -> list[float]:
    """1 for a correct answer."""
    return [float(o.correct) for o in outcomes]


def format_reward(outcomes: list[Outcome], **_) -> list[float]:
    """-1 for a reply that breaks the format."""
    return [-float(not o.well_formed) for o in outcomes]


def tool_bonus(outcomes: list[Outcome], **_) -> list[float]:
    """1 for a correct answer after an answered call: DeepEyes' conditional bonus."""
    return [float(o.correct and o.calls > 0) for o in outcomes]


def call_bonus(outcomes: list[Outcome], **_) -> list[float]:
    """1 for an answered call, whatever the answer: the unconditional bonus."""
    return [float(o.calls > 0) for o in outcomes]


def iou_reward(outcomes: list[Outcome], **_) -> list[float]:
    """The best IoU of a call with a target box."""
    return [o.best_iou for o in outcomes]


def curiosity_bonus(outcomes: list[Outcome], **_) -> list[float]:
    """For an episode with a call, what its group's call rate lacks to ``CALL_TARGET`` (Pixel Reasoner)."""
    return [max(0.0, CALL_TARGET - o.group_call_rate) * (o.calls > 0) for o in outcomes]


def excess_calls(outcomes: list[Outcome], **_) -> list[float]:
    """-1 for every call beyond the first."""
    return [-float(max(0, o.calls - 1)) for o in outcomes]


def need_gated_bonus(outcomes: list[Outcome], **_) -> list[float]:
    """`tool_bonus` times the share of wrong ones among the group's direct answers.

    A call is paid where answering at once fails (the idea of AdaTooler-V, arXiv 2512.16918; on-policy here).
    """
    return [(1 - o.group_direct) * (o.correct and o.calls > 0) for o in outcomes]


def call_cost(outcomes: list[Outcome], **_) -> list[float]:
    """-1 for every answered call. For a policy that zooms already: earlier, a price kills its calls."""
    return [-float(o.calls) for o in outcomes]


REWARDS = {
    reward.__name__: reward
    for reward in (
        accuracy_reward,
        format_reward,
        tool_bonus,
        call_bonus,
        iou_reward,
        curiosity_bonus,
        excess_calls,
        need_gated_bonus,
        call_cost,
    )
}


# --- reward variants: weights of the functions above ---------------------------------------------

_PLAIN = {"accuracy_reward": ACCURACY_WEIGHT, "format_reward": 0.2}
# What becomes TRL's ``reward_funcs`` and ``reward_weights``: the name of a function and its weight.
VARIANTS: dict[str, dict[str, float]] = {
    "conditional": {**_PLAIN, "tool_bonus": 1.2},  # the paper; weights of the public code
    "unconditional": {**_PLAIN, "call_bonus": 0.4},  # left commented out in the public code
    "none": _PLAIN,  # the paper's ablation: accuracy and format only
    "text_only": _PLAIN,  # the paper's ablation: RL on reasoning in text, no tool
    # Pixel Reasoner; its constants as re-implemented in verl-tool's reward_manager/pixel_reasoner.py.
    "curiosity": {**_PLAIN, "curiosity_bonus": 0.5, "excess_calls": 0.05},
    # No paper's: supervised boxes, an upper bound for the others.
    "iou": {**_PLAIN, "iou_reward": 1.2},
}
WITHOUT_TOOL = ("text_only",)  # variants whose prompts do not offer the tool


def variant(name: str) -> dict[str, float]:
    """The weights of a reward variant, by the name of the reward function.

    Raises:
        ValueError: naming the variants there are.
    """
    if name not in VARIANTS:
        raise ValueError(f"unknown reward variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def reward_parts(weights: dict[str, float], outcome: Outcome) -> dict[str, float]:
    """What each reward function adds to the reward of one episode, its weight included.

    >>> reward_parts(VARIANTS["conditional"], Outcome(correct=True, well_formed=False, calls=1))
    {'accuracy_reward': 0.8, 'format_reward': -0.2, 'tool_bonus': 1.2}
    """
    return {name: weight * REWARDS[name]([outcome])[0] for name, weight in weights.items()}


def reward(
    weights: dict[str, float],
    correct: bool,
    well_formed: bool,
    calls: int,
    best_iou: float = 0.0,
    group_call_rate: float = 0.0,
) -> float:
    """Reward of one episode under the weights of a variant; the other arguments are those of `Outcome`.

    >>> reward(VARIANTS["conditional"], True, True, 1), reward(VARIANTS["conditional"], True, True, 0)
    (2.0, 0.8)
    >>> reward(VARIANTS["conditional"], False, True, 3), reward(VARIANTS["unconditional"], False, True, 3)
    (0.0, 0.4)
    >>> round(reward(VARIANTS["curiosity"], True, True, 2, group_call_rate=0.125), 4)
    0.8375
    """
    outcome = Outcome(correct, well_formed, calls, best_iou, group_call_rate)
    return sum(reward_parts(weights, outcome).values())


def advantages(rewards: list[float]) -> list[float]:
    """What GRPO makes of the rewards of one group: centred, divided by their deviation.

    As TRL 1.16.0 with ``scale_rewards="group"``: G - 1 in the deviation, and 1e-4 added to it.

    >>> [round(a, 2) for a in advantages([2.0, 0.0, 0.0, 0.0])], advantages([0.8, 0.8])
    ([1.5, -0.5, -0.5, -0.5], [0.0, 0.0])
    """
    mean = sum(rewards) / len(rewards)  # over the G rewards of a group
    deviation = stdev(rewards) if len(rewards) > 1 else 0.0
    return [(reward - mean) / (deviation + 1e-4) for reward in rewards]


def least_bonus(p_zoom: float, p_direct: float, accuracy: float = ACCURACY_WEIGHT) -> float:
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
