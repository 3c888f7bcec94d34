"""rewards.py against DeepEyes' public reward: equal, but for the deviations that are listed here.

`deepeyes_reward` follows the arithmetic of ``compute_score`` in ``verl/utils/reward_score/vl_agent.py``
of Visual-Agent/DeepEyes, with our rules in place of its judge, for both are asked about the same text.
"""

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
K, L = "<answer>K</answer>", "<answer>L</answer>"


class Episode:
    """Turns of the model; whether each but the last got a crop (True) or an error (False)."""

    def __init__(self, *turns: str, crops: list[bool] | None = None):
        self.turns = turns
        self.crops = [True] * (len(turns) - 1) if crops is None else crops
        # The whole response, observations included: what the public code is given.
        self.text = turns[0]
        for turn, crop in zip(turns[1:], self.crops, strict=True):
            self.text += BETWEEN.format(CROP if crop else "Error: empty") + turn


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


def no_last_answer(e):
    return "<answer>" not in e.turns[-1]


def more_than_one(tag):
    return lambda e: any(turn.count(f"<{tag}>") > 1 for turn in e.turns)


def unpaired(tag):
    return lambda e: any(t.count(f"<{tag}>") != t.count(f"</{tag}>") for t in e.turns)


def turned_round(e):
    tags = ("think", "tool_call", "answer")
    return any(0 <= t.find(f"</{tag}>") < t.find(f"<{tag}>") for t in e.turns for tag in tags)


def calls_at_last(e):
    return "<tool_call>" in e.turns[-1]


def answers_early(e):
    return any("<answer>" in turn for turn in e.turns[:-1])


# An example of every deviation, their reward, ours, and where the deviation may apply.
DEVIATIONS = [
    # 0 == 0 tags are no error to the public code, and the whole text goes to the judge, so that a bare
    # answer is right; a format that needs no answer teaches none.
    (Episode("It is K."), 0.0, -0.2, no_last_answer),
    (Episode("K"), 0.8, -0.2, no_last_answer),
    # The public code reads on to the end; we read only what stands in a pair.
    (Episode("<think>!</think><answer>K"), 0.6, -0.2, unpaired("answer")),
    # The public code counts answer tags after the last thought only, and reads the last; ours are pairs.
    (Episode(f"<think><answer></think>{K}"), 0.8, -0.2, unpaired("answer")),
    # 2 == 2 tags are no error there; an answer after another is a second guess.
    (Episode(f"<think>!</think>{L}{K}"), 0.8, 0.6, more_than_one("answer")),
    # The public code counts over the whole response, so a later turn makes up for an earlier one; a turn
    # of ours has one thought.
    (Episode(f"<think>?</think><think>!</think>{K}"), 0.8, 0.6, more_than_one("think")),
    (Episode(f"<think>?{CALL}", f"</think>{K}"), 2.0, 1.8, unpaired("think")),
    # The public code counts tags and does not look at their order.
    (Episode(f"</think>!<think>{K}"), 0.8, 0.6, turned_round),
    # The public code does not count the tags of calls; ours must be pairs.
    (Episode(f"<think>?</think><tool_call>{{{K}"), 0.8, 0.6, unpaired("tool_call")),
    # The public toolbox answers the first of two calls in a turn; a well-formed turn of ours has one.
    (Episode(f"<think>?</think>{CALL}{CALL}", K), 2.0, 1.8, more_than_one("tool_call")),
    # A last turn that calls, too, did not wait for what it asked for.
    (Episode(f"<think>?</think>{CALL}{K}"), 0.8, 0.6, calls_at_last),
    # An answer in a turn that goes on was not the last word.
    (Episode(f"<think>?</think>{K}{CALL}", K), 2.0, 1.8, answers_early),
    # The public code takes the last answer of the response; ours must stand in the last turn.
    (Episode(f"{K}{CALL}", "<think>?</think>"), 2.0, -0.2, no_last_answer),
    # An answer too long is wrong in both; there it is a format error as well, which ours leaves to tags.
    (Episode(f"<answer>{'K ' * 600}</answer>"), -0.2, 0.0, lambda e: len(e.text) >= 1000),
    # There a placeholder in the text is a tool call, whoever wrote it; ours counts calls that were
    # answered with a crop (and a run stops where a policy writes a placeholder).
    (Episode(f"<think>{CROP}</think>{K}"), 2.0, 0.8, lambda e: "<|image_pad|>" in str(e.turns)),
]


@pytest.mark.parametrize(("example", "theirs", "ours", "applies"), DEVIATIONS)
def test_every_deviation_is_as_it_is_listed(example, theirs, ours, applies):
    assert applies(example) and theirs != ours
    assert deepeyes_reward(example.text) == pytest.approx(theirs)
    assert our_reward(example) == pytest.approx(ours)


def test_equal_where_nothing_deviates():
    zoom = f"<think>?</think>{CALL}"
    for episode, expected in [
        (Episode(f"<think>!</think>{K}"), 0.8),
        (Episode(f"<think>!</think>{L}"), 0.0),
        (Episode(zoom, K), 2.0),
        (Episode(zoom, L), 0.0),
        (Episode(zoom, K, crops=[False]), 0.8),  # a refused call
        (Episode(CALL, CALL, K), 2.0),
        (Episode(f"<think>!{K}"), 0.6),  # the thought is not closed
        (Episode(f"<think>{CALL}", K), 1.8),
    ]:
        assert deepeyes_reward(episode.text) == pytest.approx(expected)
        assert our_reward(episode) == pytest.approx(expected)


TAGS = [f"<{mark}{tag}>" for tag in ("think", "answer", "tool_call") for mark in ("", "/")]
PIECES = st.sampled_from([*TAGS, "<think>!</think>", K, L, CALL, CROP, "K", "L", "K " * 600])
TURNS = st.lists(PIECES, max_size=5).map("".join)


@st.composite
def episodes(draw):
    turns = draw(st.lists(TURNS, min_size=1, max_size=3))
    crops = draw(st.lists(st.booleans(), min_size=len(turns) - 1, max_size=len(turns) - 1))
    return Episode(*turns, crops=crops)


@given(episode=episodes())
@settings(max_examples=1500)
def test_no_deviation_is_missing_from_the_list(episode):
    """Whatever a policy writes: where the rewards differ, a listed deviation applies."""
    if any("<tool_call>" not in turn for turn in episode.turns[:-1]):
        return  # the loop ends an episode at a turn without a call
    if our_reward(episode) != pytest.approx(deepeyes_reward(episode.text)):
        assert any(applies(episode) for *_, applies in DEVIATIONS), episode.turns
