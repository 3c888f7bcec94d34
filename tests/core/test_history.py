"""history.py: what a step records, what a kill leaves of it, and the alarm that reads it."""

import math
from types import SimpleNamespace

import pytest
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.rewards import arm
from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.training import (
    HISTORY_COLUMNS,
    CollapseAlarm,
    History,
    read_history,
    summarise,
    write_history,
)

NAN = math.nan
EPISODE = {
    "correct": True,
    "formed": True,
    "calls": 0,
    "attempts": 0,
    "iou": None,
    "length": 10,
    "legible": 1,
    "reward": 0.8,
}


def episode(**changes):
    return {**EPISODE, **changes}


def row(step=1, **changes):
    known = {name: 0.5 for name in HISTORY_COLUMNS} | {"n_zoom": 8, "n_direct": 8}
    return {**known, "step": step, **changes}


# --- figures of a step --------------------------------------------------------------------------


def test_summary_of_a_step():
    figures = summarise(
        [
            episode(),
            episode(correct=False, legible=0, reward=0.0, length=20),
            episode(calls=2, attempts=3, iou=0.5, legible=0, reward=2.0, length=30),
            episode(correct=False, formed=False, calls=1, attempts=1, iou=0.1, reward=-0.2),
            episode(correct=False, attempts=1, reward=0.0, legible=-1),
        ]
    )
    expected = {
        "accuracy": 2 / 5,
        "accuracy_legible": 1 / 2,
        "accuracy_illegible": 1 / 2,
        "call_rate": 2 / 5,
        "calls_per_episode": 3 / 5,
        "valid_call_rate": 3 / 5,
        "format_errors": 1 / 5,
        "best_iou": 0.3,
        "response_length": 16,
        "reward": 2.6 / 5,
        "p_zoom": 1 / 2,
        "n_zoom": 2,
        "p_direct": 1 / 3,
        "n_direct": 3,
        "least_bonus": 0.8 * (1 / 3 / (1 / 2) - 1),
    }
    assert figures == pytest.approx(expected)


def test_a_figure_without_episodes_is_nan():
    figures = summarise([episode(), episode()])
    for name in ("accuracy_illegible", "valid_call_rate", "best_iou", "p_zoom", "least_bonus"):
        assert math.isnan(figures[name]), name
    assert (figures["n_zoom"], figures["p_direct"]) == (0, 1.0)


@pytest.fixture
def history(processor, tmp_path):
    return History(arm("conditional"), processor.tokenizer, tmp_path / "history.csv")


def scored(history, *texts, calls=(), truth="K", legible=1, **columns):
    """Rewards of these completions; ``calls`` are the answered calls of each."""
    tokenizer = history.tokenizer
    target = (0.0, 0.0, 96.0, 96.0)
    zooms = []
    for n in calls or [0] * len(texts):
        zooms.append(ZoomTool(Image.new("RGB", (384, 384))))
        for _ in range(n):
            zooms[-1].image_zoom_in_tool([0, 0, 250, 250])
    return history.reward(
        [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
        id=["one question"] * len(texts),
        answer=[truth] * len(texts),
        boxes_px=[[target]] * len(texts),
        legible=[legible] * len(texts),
        environments=zooms,
        further="ignored",
        **{name: [value] * len(texts) for name, value in columns.items()},
    )


OBSERVATION = (
    "\n<|im_start|>user\n<tool_response>"
    + prompts.IMAGE
    + f"</tool_response>{prompts.TURN_END}\n{prompts.GENERATION_PROMPT}"
)
CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [0, 0, 250, 250]}) + prompts.TURN_END


def test_rewards_are_read_off_the_tokens(history):
    right = prompts.answer("!", "K") + prompts.TURN_END
    texts = [
        right,
        CALL + OBSERVATION + right,
        CALL + OBSERVATION + prompts.answer("!", "L") + prompts.TURN_END,
        right.removesuffix(prompts.TURN_END),
        "<answer>K",
        CALL + OBSERVATION + "<answer>K</answer></think>" + prompts.TURN_END,
        "",
    ]
    rewards = scored(history, *texts, calls=(0, 1, 1, 0, 0, 1, 0))
    assert rewards == pytest.approx([0.8, 2.0, 0.0, 0.8, -0.2, 1.8, -0.2])


def test_an_answer_is_checked_by_the_rule_of_its_row(history):
    texts = [prompts.answer("!", answer) + prompts.TURN_END for answer in ("B. red", "(a)")]
    assert scored(history, *texts, truth="B") == [0.0, 0.0]
    options = ["blue", "red"]
    assert scored(history, *texts, truth="B", options=options, verifier="choice") == [0.8, 0.0]


def test_a_refused_call_is_an_attempt_and_no_call(history):
    right = prompts.answer("!", "K") + prompts.TURN_END
    error = OBSERVATION.replace(prompts.IMAGE, "Error: no")
    texts = [CALL + OBSERVATION + CALL + error + right, CALL + error + right]
    assert scored(history, *texts, calls=(1, 0)) == pytest.approx([2.0, 0.8])
    history.on_log(
        None, SimpleNamespace(is_world_process_zero=True, global_step=1), None, logs={"loss": 0.0}
    )
    (row,) = history.rows
    assert row["valid_call_rate"] == pytest.approx(1 / 3)
    assert (row["call_rate"], row["calls_per_episode"]) == (0.5, 0.5)


def test_an_arm_may_ask_for_the_group_and_the_boxes(history):
    """Curiosity pays while one in four calls, not when all do; IoU pays for the target's own box."""
    right = prompts.answer("!", "K") + prompts.TURN_END
    texts = [right, right, right, CALL + OBSERVATION + right]
    history.arm = arm("curiosity")
    assert scored(history, *texts, calls=(0, 0, 0, 1)) == pytest.approx([0.8] * 3 + [0.825])
    assert scored(history, *texts, calls=(1, 1, 1, 2)) == pytest.approx([0.8] * 3 + [0.75])
    history.arm = arm("iou")
    assert scored(history, *texts, calls=(0, 0, 0, 1)) == pytest.approx([0.8] * 3 + [2.0])


def test_an_answer_counts_in_the_last_turn_only(history):
    (reward,) = scored(history, "<answer>K</answer>" + OBSERVATION + "I do not know.")
    assert reward == pytest.approx(-0.2)


def test_a_step_is_written_when_trl_logs_its_loss(history):
    scored(
        history,
        CALL + OBSERVATION + prompts.answer("!", "K"),
        prompts.answer("!", "L"),
        calls=(1, 0),
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    history.on_step_begin(None, state, None)
    history.on_log(None, state, None, logs={"train_runtime": 5.0})
    assert not history.path.exists()
    history.on_log(None, state, None, logs={"loss": 0.25, "grad_norm": 1.5})
    (found,) = read_history(history.path)
    assert list(found) == HISTORY_COLUMNS
    assert (found["step"], found["loss"], found["grad_norm"]) == (3, 0.25, 1.5)
    assert (found["accuracy"], found["call_rate"], found["best_iou"]) == (0.5, 0.5, 1.0)
    assert (found["n_zoom"], found["p_zoom"], found["n_direct"], found["p_direct"]) == (1, 1, 1, 0)
    assert 0 <= found["step_time"] < 60
    assert len(history.rows) == 1


@pytest.mark.parametrize(
    "logs",
    [
        {"loss": NAN, "grad_norm": 1.0},
        {"loss": math.inf, "grad_norm": 1.0},
        {"loss": 0.0, "grad_norm": NAN},
        {"loss": 0.0, "grad_norm": math.inf},
        {"loss": NAN},
    ],
)
def test_a_loss_that_is_no_number_stops_the_run_in_words(history, logs):
    scored(history, prompts.answer("!", "K"))
    message = "step 7: loss .* gradient norm .* lower learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        history.on_log(
            None, SimpleNamespace(is_world_process_zero=True, global_step=7), None, logs=logs
        )
    assert history.rows == [] and not history.path.exists()


# --- the file -----------------------------------------------------------------------------------


def test_history_comes_back(tmp_path):
    path = tmp_path / "history.csv"
    rows = [row(1), row(2, p_zoom=NAN, n_zoom=0, least_bonus=math.inf), row(3, loss=-1.25e-7)]
    write_history(rows[:1], path, append=True)
    write_history(rows[1:], path, append=True)
    for found, wrote in zip(read_history(path), rows, strict=True):
        assert found == pytest.approx(wrote, nan_ok=True)
        assert all(type(found[name]) is int for name in ("step", "n_zoom", "n_direct"))


def test_what_was_read_is_written_to_the_same_bytes(tmp_path):
    path = tmp_path / "history.csv"
    write_history([row(1, loss=1 / 3, step_time=12.3456789), row(2, reward=NAN)], path)
    before = path.read_bytes()
    write_history(read_history(path), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]


def test_no_rows_make_a_file_with_a_header(tmp_path):
    path = tmp_path / "history.csv"
    write_history([], path)
    assert read_history(path) == []
    write_history([row(1)], path, append=True)
    assert path.read_text().count("step_time") == 1 and len(read_history(path)) == 1


def test_a_last_line_that_was_cut_is_left_out_wherever_the_cut_is(tmp_path):
    path = tmp_path / "history.csv"
    write_history([row(1), row(2, step_time=123.5)], path)
    data = path.read_bytes()
    start = data.index(b"\n", data.index(b"\n") + 1) + 1
    for end in range(start, len(data)):
        path.write_bytes(data[:end])
        assert [r["step"] for r in read_history(path)] == [1], data[start:end]
    path.write_bytes(data)
    assert len(read_history(path)) == 2


def test_a_kill_while_the_history_is_rewritten_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "history.csv"
    write_history([row(1), row(2)], path)

    def killed(file):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_history([row(1)], path)
    assert len(read_history(path)) == 2


# --- the alarm ----------------------------------------------------------------------------------


def alarm(call_rates, bonus=0.0, window=5, **changes):
    rows = [row(i, call_rate=rate, **changes) for i, rate in enumerate(call_rates, 1)]
    return CollapseAlarm(SimpleNamespace(rows=rows), bonus, window=window)


def test_a_falling_call_rate_is_said_in_words():
    message = alarm([0.4] * 5 + [0.1] * 5, bonus=0.1, p_zoom=0.3, p_direct=0.6).message()
    assert message == (
        "tool use is falling toward zero: call rate 0.40 -> 0.10 over 5 steps; a call pays only with "
        "a bonus above b* = 0.80, and this arm's is 0.10 (p_zoom 0.30, p_direct 0.60)."
    )


def test_a_dead_call_rate_is_said_in_words():
    message = alarm([0.3] * 5 + [0.0] * 5, p_zoom=NAN, n_zoom=0).message()
    assert message.startswith("tool use has died out: call rate 0.30 -> 0.00 over 5 steps; ")
    assert "there are no calls left to learn from" in message


def test_probabilities_are_pooled_over_the_counts():
    quiet = alarm([0.4] * 5 + [0.1] * 5)
    for number, r in enumerate(quiet.history.rows[5:]):
        r.update(p_zoom=1.0 if number else NAN, n_zoom=1 if number else 0, p_direct=0.5, n_direct=7)
    quiet.history.rows[6].update(p_zoom=0.0, n_zoom=5)
    assert "(p_zoom 0.38, p_direct 0.50)" in quiet.message()  # 3 of 8


@pytest.mark.parametrize(
    "call_rates",
    [
        [],
        [0.4] * 9,
        [0.4] * 30,
        [0.1] * 5 + [0.4] * 5,
        [0.4] * 5 + [0.25] * 5,  # less, but not yet half
        [0.4, 0.0] * 10,  # one step says nothing
        [0.0] * 10 + [0.9] * 5,
    ],
)
def test_the_alarm_is_silent_otherwise(call_rates):
    assert alarm(call_rates).message() is None


def test_the_alarm_is_given_once_in_a_window(capsys):
    bell = alarm([0.4] * 5 + [0.1] * 5)
    for step in range(10, 17):
        bell.on_step_end(None, SimpleNamespace(is_world_process_zero=True, global_step=step), None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 10", "step 15"]
