"""rewards.py against DeepEyes' public reward: equal, but for the deviations that are listed here.

`deepeyes_reward` follows the arithmetic of ``compute_score`` in ``verl/utils/reward_score/vl_agent.py``
of Visual-Agent/DeepEyes, with our rules in place of its judge, for both are asked about the same text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepeyes_lite.rewards import VARIANTS, reward
from deepeyes_lite.verifiers import extract_answer, is_correct, well_formed

TRUTH = "K"
CROP = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
BETWEEN = "<|im_end|>\n<|im_start|>user\n<tool_response>{}</tool_response><|im_end|>\n<|im_start|>assistant\n"
CALL = (
    '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4]}}</tool_call>'
)


@dataclass(frozen=True)
class Episode:
    """Turns of the model; whether each but the last got a crop (True) or an error (False)."""

    turns: tuple[str, ...]
    crops: tuple[bool, ...] = ()

    @property
    def text(self) -> str:
        """The whole response, observations included: what the public code is given."""
        found = self.turns[0]
        for turn, crop in zip(self.turns[1:], self.crops, strict=True):
            found += BETWEEN.format(CROP if crop else "Error: empty") + turn
        return found


def deepeyes_reward(text: str) -> float:
    """The public arithmetic on a response."""
    wrong = text.count("<think>") != text.count("</think>")
    shown = text.count("<|vision_start|><|image_pad|>")
    wrong |= shown != text.count("<|image_pad|><|vision_end|>")
    after = text.split("</think>")[-1].strip()
    wrong |= after.count("<answer>") != after.count("</answer>")
    answer = text.split("<answer>")[-1].split("</answer>")[0].strip()
    accuracy = float(is_correct(answer, TRUTH))
    if len(answer) >= 1000:
        accuracy, wrong = 0.0, True
    tool = float(shown > 0 and accuracy > 0.5)
    return 0.8 * accuracy + 0.2 * (-1.0 if wrong else 0.0) + 1.2 * tool


def our_reward(episode: Episode) -> float:
    correct = is_correct(extract_answer(episode.turns[-1]), TRUTH)
    formed = well_formed(list(episode.turns))
    return reward(VARIANTS["conditional"], correct, formed, sum(episode.crops))


@dataclass(frozen=True)
class Deviation:
    """Why ours differs, an example with both rewards, and where it may apply."""

    reason: str
    example: Episode
    theirs: float
    ours: float
    applies: Callable[[Episode], bool]


def more_than_one(tag):
    return lambda e: any(turn.count(f"<{tag}>") > 1 for turn in e.turns)


def unpaired(tag):
    return lambda e: any(t.count(f"<{tag}>") != t.count(f"</{tag}>") for t in e.turns)


def turned_round(e):
    tags = ("think", "tool_call", "answer")
    return any(0 <= t.find(f"</{tag}>") < t.find(f"<{tag}>") for t in e.turns for tag in tags)


DEVIATIONS = {
    "no answer tag": Deviation(
        "0 == 0 tags are no error to the public code, and the whole text goes to the judge; a format that "
        "needs no answer teaches none",
        Episode(("It is K.",)),
        theirs=0.0,
        ours=-0.2,
        applies=lambda e: "<answer>" not in e.turns[-1],
    ),
    "bare answer": Deviation(
        "for the same reason a bare answer is right there",
        Episode(("K",)),
        theirs=0.8,
        ours=-0.2,
        applies=lambda e: "<answer>" not in e.turns[-1],
    ),
    "answer not closed": Deviation(
        "the public code reads on to the end; we read only what stands in a pair",
        Episode(("<think>!</think><answer>K",)),
        theirs=0.6,
        ours=-0.2,
        applies=unpaired("answer"),
    ),
    "answer within thoughts": Deviation(
        "the public code counts answer tags after the last thought only, and reads the last; ours are pairs",
        Episode(("<think><answer></think><answer>K</answer>",)),
        theirs=0.8,
        ours=-0.2,
        applies=unpaired("answer"),
    ),
    "two answers": Deviation(
        "2 == 2 tags are no error there; an answer after another is a second guess",
        Episode(("<think>!</think><answer>L</answer><answer>K</answer>",)),
        theirs=0.8,
        ours=0.6,
        applies=more_than_one("answer"),
    ),
    "two thoughts in a turn": Deviation(
        "the public code counts over the whole response; a turn of ours has one thought",
        Episode(("<think>?</think><think>!</think><answer>K</answer>",)),
        theirs=0.8,
        ours=0.6,
        applies=more_than_one("think"),
    ),
    "tags mended in another turn": Deviation(
        "the public code counts over the whole response, so a later turn makes up for an earlier one",
        Episode((f"<think>?{CALL}", "</think><answer>K</answer>"), (True,)),
        theirs=2.0,
        ours=1.8,
        applies=unpaired("think"),
    ),
    "tags the wrong way round": Deviation(
        "the public code counts tags and does not look at their order",
        Episode(("</think>!<think><answer>K</answer>",)),
        theirs=0.8,
        ours=0.6,
        applies=turned_round,
    ),
    "call not closed": Deviation(
        "the public code does not count the tags of calls; ours must be pairs",
        Episode(("<think>?</think><tool_call>{<answer>K</answer>",)),
        theirs=0.8,
        ours=0.6,
        applies=unpaired("tool_call"),
    ),
    "two calls in a turn": Deviation(
        "the public toolbox answers the first of them; a well-formed turn of ours has one",
        Episode((f"<think>?</think>{CALL}{CALL}", "<answer>K</answer>"), (True,)),
        theirs=2.0,
        ours=1.8,
        applies=more_than_one("tool_call"),
    ),
    "answer beside a call": Deviation(
        "a last turn that calls, too, did not wait for what it asked for",
        Episode((f"<think>?</think>{CALL}<answer>K</answer>",)),
        theirs=0.8,
        ours=0.6,
        applies=lambda e: "<tool_call>" in e.turns[-1],
    ),
    "answer before the end": Deviation(
        "an answer in a turn that goes on was not the last word",
        Episode((f"<think>?</think><answer>K</answer>{CALL}", "<answer>K</answer>"), (True,)),
        theirs=2.0,
        ours=1.8,
        applies=lambda e: any("<answer>" in turn for turn in e.turns[:-1]),
    ),
    "earlier answer counts": Deviation(
        "the public code takes the last answer of the response; ours must stand in the last turn",
        Episode((f"<answer>K</answer>{CALL}", "<think>?</think>"), (True,)),
        theirs=2.0,
        ours=-0.2,
        applies=lambda e: "<answer>" not in e.turns[-1],
    ),
    "answer too long": Deviation(
        "wrong in both; there it is a format error as well, which ours leaves to the tags",
        Episode(("<think>!</think><answer>" + "K " * 600 + "</answer>",)),
        theirs=-0.2,
        ours=0.0,
        applies=lambda e: len(e.text) >= 1000,
    ),
    "crop that the policy wrote": Deviation(
        "there a placeholder in the text is a tool call, whoever wrote it; ours counts calls that were "
        "answered with a crop (and a run stops where a policy writes a placeholder)",
        Episode((f"<think>{CROP}</think><answer>K</answer>",)),
        theirs=2.0,
        ours=0.8,
        applies=lambda e: any("<|image_pad|>" in turn for turn in e.turns),
    ),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_every_deviation_is_as_it_is_listed(name):
    found = DEVIATIONS[name]
    assert found.applies(found.example)
    assert deepeyes_reward(found.example.text) == pytest.approx(found.theirs)
    assert our_reward(found.example) == pytest.approx(found.ours)
    assert found.theirs != found.ours


WELL_FORMED = {
    "at once, right": (Episode(("<think>!</think><answer>K</answer>",)), 0.8),
    "at once, wrong": (Episode(("<think>!</think><answer>L</answer>",)), 0.0),
    "zoomed, right": (Episode((f"<think>?</think>{CALL}", "<answer>K</answer>"), (True,)), 2.0),
    "zoomed, wrong": (Episode((f"<think>?</think>{CALL}", "<answer>L</answer>"), (True,)), 0.0),
    "refused, right": (Episode((f"<think>?</think>{CALL}", "<answer>K</answer>"), (False,)), 0.8),
    "zoomed twice": (Episode((CALL, CALL, "<answer>K</answer>"), (True, True)), 2.0),
    "thought not closed": (Episode(("<think>!<answer>K</answer>",)), 0.6),
    "thought not closed, zoomed": (Episode((f"<think>{CALL}", "<answer>K</answer>"), (True,)), 1.8),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_equal_where_nothing_deviates(name):
    episode, expected = WELL_FORMED[name]
    assert deepeyes_reward(episode.text) == pytest.approx(expected)
    assert our_reward(episode) == pytest.approx(expected)


PIECES = st.sampled_from(
    [*(f"<{mark}{tag}>" for tag in ("think", "answer", "tool_call") for mark in ("", "/"))]
    + [
        "<think>!</think>",
        "<answer>K</answer>",
        "<answer>L</answer>",
        CALL,
        CROP,
        "K",
        "L",
        "K " * 600,
    ]
)
TURNS = st.lists(PIECES, max_size=5).map("".join)


@st.composite
def episodes(draw):
    turns = draw(st.lists(TURNS, min_size=1, max_size=3))
    crops = draw(st.lists(st.booleans(), min_size=len(turns) - 1, max_size=len(turns) - 1))
    return Episode(tuple(turns), tuple(crops))


@given(episode=episodes())
@settings(max_examples=1500)
def test_no_deviation_is_missing_from_the_list(episode):
    """Whatever a policy writes: where the rewards differ, a listed deviation applies."""
    turns_without_call = any("<tool_call>" not in turn for turn in episode.turns[:-1])
    if turns_without_call:  # the loop ends an episode at such a turn
        return
    if our_reward(episode) != pytest.approx(deepeyes_reward(episode.text)):
        names = [name for name, found in DEVIATIONS.items() if found.applies(episode)]
        assert names, episode


def test_weights_are_those_of_the_public_code():
    weights = {"accuracy_reward": 0.8, "format_reward": 0.2, "tool_bonus": 1.2}
    assert VARIANTS["conditional"] == weights
    assert (
        VARIANTS["unconditional"]["call_bonus"] == 0.4
    )  # "reward 1" of the public code, commented out
