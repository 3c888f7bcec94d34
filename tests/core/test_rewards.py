"""rewards.py: the arithmetic of every variant, as TRL calls it, and the collapse inequality."""

import math
from collections import defaultdict

import pytest
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.rewards import REWARDS, VARIANTS, for_trl, least_bonus, reward, variant
from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.training import HISTORY_COLUMNS, history_row, log_episodes

# correct, well formed, calls, then the best IoU and the group's call rate -> reward
TABLE = {
    "conditional": {
        (True, True, 0): 0.8,
        (True, True, 1): 2.0,
        (True, True, 6): 2.0,
        (True, False, 1): 1.8,
        (True, False, 0): 0.6,
        (False, True, 0): 0.0,
        (False, True, 2): 0.0,
        (False, False, 2): -0.2,
    },
    "unconditional": {
        (True, True, 0): 0.8,
        (True, True, 1): 1.2,
        (False, True, 0): 0.0,
        (False, True, 2): 0.4,
        (False, False, 2): 0.2,
        (False, False, 0): -0.2,
    },
    "none": {(True, True, 0): 0.8, (True, True, 3): 0.8, (False, True, 3): 0.0},
    "text_only": {(True, True, 0): 0.8, (False, True, 0): 0.0, (False, False, 0): -0.2},
    "curiosity": {
        (True, True, 0, 0.0, 0.0): 0.8,
        (True, True, 1, 0.0, 0.1): 0.8 + 0.5 * 0.2,
        (False, True, 1, 0.9, 0.3): 0.0,
        (True, True, 1, 0.0, 0.7): 0.8,
        (True, True, 3, 0.0, 0.2): 0.8 + 0.5 * 0.1 - 0.1,
    },
    "iou": {(True, True, 1, 0.5): 1.4, (False, True, 2, 1.0): 1.2, (True, True, 0, 0.0): 0.8},
}


def test_the_reward_of_every_variant():
    assert set(TABLE) == set(VARIANTS)
    for name, row in TABLE.items():
        for episode, expected in row.items():
            assert reward(variant(name), *episode) == pytest.approx(expected), (name, episode)
    with pytest.raises(ValueError, match="unknown reward variant 'bonus'; there are conditional, "):
        variant("bonus")


# --- as TRL calls them --------------------------------------------------------------------------

OBSERVATION = (
    "\n<|im_start|>user\n<tool_response>"
    + prompts.IMAGE
    + f"</tool_response>{prompts.TURN_END}\n{prompts.GENERATION_PROMPT}"
)
CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [0, 0, 250, 250]}) + prompts.TURN_END
CORRECT = prompts.answer("!", "K") + prompts.TURN_END


def batch(tokenizer, *texts, calls=(), truth="K", options=(), verifier="text"):
    """What TRL hands to a reward function; ``calls`` are the answered calls of each rollout."""
    zooms = []
    for n in calls or [0] * len(texts):
        zooms.append(ZoomTool(Image.new("RGB", (384, 384))))
        for _ in range(n):
            zooms[-1].image_zoom_in_tool([0, 0, 250, 250])
    columns = {
        "id": "one question",
        "answer": truth,
        "boxes_px": [(0.0, 0.0, 96.0, 96.0)],
        "legible": 1,
        "options": options,
        "verifier": verifier,
        "further": "ignored",
    }
    return {
        "completion_ids": [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts],
        "environments": zooms,
        **{name: [value] * len(texts) for name, value in columns.items()},
    }


def scored(processor, name, *texts, **changes):
    """Rewards of these completions under a variant, as TRL adds them up."""
    tokenizer = processor.tokenizer
    columns = batch(tokenizer, *texts, **changes)
    rewards = [0.0] * len(texts)
    for function, weight in variant(name).items():
        for i, value in enumerate(for_trl(REWARDS[function], tokenizer)(**columns)):
            rewards[i] += weight * value
    return rewards


def test_rewards_are_read_off_the_tokens(processor):
    texts = [
        CORRECT,
        CALL + OBSERVATION + CORRECT,
        CALL + OBSERVATION + prompts.answer("!", "L") + prompts.TURN_END,
        CORRECT.removesuffix(prompts.TURN_END),
        "<answer>K",
        CALL + OBSERVATION + "<answer>K</answer></think>" + prompts.TURN_END,
        "",
        "<answer>K</answer>" + OBSERVATION + "I do not know.",  # the last turn alone answers
    ]
    rewards = scored(processor, "conditional", *texts, calls=(0, 1, 1, 0, 0, 1, 0, 0))
    assert rewards == pytest.approx([0.8, 2.0, 0.0, 0.8, -0.2, 1.8, -0.2, -0.2])


def test_an_answer_is_checked_by_the_rule_of_its_row(processor):
    texts = [prompts.answer("!", answer) + prompts.TURN_END for answer in ("B. red", "(a)")]
    assert scored(processor, "none", *texts, truth="B") == [0.0, 0.0]
    choice = {"truth": "B", "options": ["blue", "red"], "verifier": "choice"}
    assert scored(processor, "none", *texts, **choice) == [0.8, 0.0]


def test_a_variant_may_ask_for_the_group_and_the_boxes(processor):
    """Curiosity pays while one in four calls, not when all do; IoU pays for the target's own box."""
    texts = [CORRECT, CORRECT, CORRECT, CALL + OBSERVATION + CORRECT]
    few = scored(processor, "curiosity", *texts, calls=(0, 0, 0, 1))
    assert few == pytest.approx([0.8] * 3 + [0.825])
    all_call = scored(processor, "curiosity", *texts, calls=(1, 1, 1, 2))
    assert all_call == pytest.approx([0.8] * 3 + [0.75])
    assert scored(processor, "iou", *texts, calls=(0, 0, 0, 1))[3] == pytest.approx(2.0)


def test_what_a_step_logs(processor):
    error = OBSERVATION.replace(prompts.IMAGE, "Error: no")
    texts = [
        CALL + OBSERVATION + CALL + error + CORRECT,
        CALL + error + CORRECT,
        "<answer>L</answer>",
    ]
    logged = defaultdict(list)
    columns = batch(processor.tokenizer, *texts, calls=(1, 0, 0))
    columns |= {"legible": [1, 0, -1], "need": [0, 2, -1]}
    log_metric = lambda name, value: logged[name].append(float(value))  # noqa: E731
    assert for_trl(log_episodes, processor.tokenizer)(**columns, log_metric=log_metric) == [0.0] * 3
    mean = {name: sum(values) / len(values) for name, values in logged.items()}
    lengths = [len(ids) for ids in columns["completion_ids"]]
    assert mean == pytest.approx(
        {
            "accuracy": 2 / 3,
            "accuracy_legible": 1.0,
            "accuracy_illegible": 1.0,
            "call_rate": 1 / 3,
            "calls_per_episode": 1 / 3,
            "calls_need_0": 1.0,
            "calls_need_2": 0.0,
            "accuracy_need_0": 1.0,
            "accuracy_need_2": 1.0,
            "valid_call_rate": 1 / 3,
            "p_zoom": 1.0,
            "p_direct": 0.5,
            "least_bonus": 0.8 * (0.5 - 1),
            "format_errors": 0.0,
            "best_iou": 1.0,
            "response_length": sum(lengths) / 3,
        }
    )
    row = history_row({**mean, "step": 1, "loss": 0.1}, episodes=3)
    assert (row["n_zoom"], row["n_direct"], row["least_bonus"]) == (1, 2, pytest.approx(-0.4))
    assert list(row) == HISTORY_COLUMNS and math.isnan(row["grad_norm"])
    empty = history_row({"step": 1, "call_rate": 0.0}, episodes=3)
    assert (empty["n_zoom"], empty["n_direct"]) == (0, 3) and math.isnan(empty["least_bonus"])


# --- the collapse inequality ----------------------------------------------------------------------


def test_least_bonus():
    for p_zoom, p_direct, expected in [
        (0.5, 0.5, 0.0),
        (0.4, 0.5, 0.2),
        (0.9, 0.3, -8 / 15),
        (0.1, 0.0, -0.8),
        (0.0, 0.5, math.inf),
        (0.0, 0.0, math.inf),
        (math.nan, 0.5, math.nan),
        (0.5, math.nan, math.nan),
    ]:
        assert least_bonus(p_zoom, p_direct) == pytest.approx(expected, nan_ok=True)
    for p_zoom, p_direct in [(0.3, 0.7), (0.8, 0.2), (0.05, 0.95)]:
        b = least_bonus(p_zoom, p_direct, accuracy=0.6)  # a call pays as much as none
        assert (0.6 + b) * p_zoom == pytest.approx(0.6 * p_direct)
