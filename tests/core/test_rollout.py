"""The hand-written loop and TRL's environment are the same episode."""

import pytest

from deepeyes_lite import prompts
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.tools import zoom
from deepeyes_lite.training import RunConfig, build_trainer
from trl_episode import trl_episode

CALL = "<think>I need to zoom in.</think>" + prompts.tool_call(
    {"bbox_2d": [100, 200, 300, 400], "label": "red circle"}
)
TAGS = "<tool_call>{}</tool_call>"
OUTSIDE = prompts.tool_call({"bbox_2d": [1200, 1200, 1300, 1300]})
ANSWER = prompts.answer("I can read it.", "K")
SCRIPTS = {
    "one call": [CALL],
    "no call": [],
    "two calls": [CALL, CALL],
    "two calls in one turn": [CALL + prompts.tool_call({"bbox_2d": [0, 0, 500, 500]})],
    "refused call": [OUTSIDE],
    "not a list": [prompts.tool_call({"bbox_2d": "here"})],
    "no arguments": [prompts.tool_call({})],
    "unknown argument": [prompts.tool_call({"bbox_2d": [0, 0, 9, 9], "angle": 1})],
    "arguments are a list": [TAGS.format('{"name": "image_zoom_in_tool", "arguments": [1]}')],
    "unknown tool": [TAGS.format('{"name": "rotate", "arguments": {}}')],
    "a call that is no object": [TAGS.format("[1]")],
    "a call without a name": [TAGS.format('{"arguments": {}}')],
    "malformed call": [TAGS.format("{nonsense")],
    "unclosed call": ["<tool_call>{"],
    "seven calls": [CALL] * 7,
    "call in an open thought": ["<think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})],
    "single quotes": [TAGS.format("{'name': 'x'}")],
    "answer beside a call": [ANSWER + CALL],
    "six copies": [CALL * 6],
}


@pytest.fixture(scope="module")
def trainer(random_eyes, tmp_path_factory):
    config = RunConfig(model=str(random_eyes), steps=1, prompts_per_step=1, num_generations=2)
    return build_trainer(config, tmp_path_factory.mktemp("run"), training_questions(config))


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_episode_as_trl(name, trainer, processor, samples, monkeypatch):
    row, script = samples[0], [*SCRIPTS[name], ANSWER]
    (ours,) = rollout([row], ScriptedPolicy(processor, script), progress=False)
    theirs = trl_episode(trainer, row, script, monkeypatch)
    assert ours.prompt_ids == theirs["prompt_ids"]
    assert ours.completion_ids == theirs["completion_ids"]
    assert ours.loss_mask == theirs["loss_mask"]
    assert len(ours.images) == theirs["images"]


# --- the loop alone -----------------------------------------------------------------------------


def scripted(processor, rows, *script, **arguments):
    policy = ScriptedPolicy(processor, list(script))
    return rollout(rows, policy, progress=False, **arguments)


def test_an_episode_is_judged_by_its_last_turn(processor, samples):
    row = samples[0]
    correct = prompts.answer("!", row["answer"])
    (episode,) = scripted(processor, [row], CALL, correct)
    assert (episode.answer, episode.correct, episode.well_formed) == (row["answer"], True, True)
    assert "image" not in episode.sample and episode.sample["id"] == row["id"]
    (episode,) = scripted(processor, [row], CALL, "I do not know.", correct)
    assert (episode.answer, episode.correct, episode.well_formed) == (None, False, False)


def test_an_answer_ends_the_episode_and_a_second_guess_is_not_heard(processor, samples):
    row = samples[0]
    right, wrong = prompts.answer("!", row["answer"]), prompts.answer("!", "?")
    for first, answer, correct in [(right + CALL, row["answer"], True), (CALL + wrong, "?", False)]:
        (episode,) = scripted(processor, [row], first, right)
        assert (len(episode.turns), episode.answer, episode.correct) == (1, answer, correct)
        assert not episode.well_formed and not episode.called


def test_a_call_that_cannot_be_read_costs_a_message(processor, samples):
    slips = ["{nonsense", "{'name': 'x'}", "[1]", "", '{"name": 7, "arguments": {}}']
    slips = [TAGS.format(slip) for slip in slips] + ["<tool_call>{", "<think><tool_call>"]
    right = prompts.answer("!", samples[0]["answer"])
    for slip in slips:
        (episode,) = scripted(processor, [samples[0]], slip, CALL, right)
        (error,) = episode.turns[0].errors
        assert error.startswith("Error: ") and len(error) < 100
        assert episode.called and episode.correct and len(episode.turns) == 3
    (episode,) = scripted(processor, [samples[0]], CALL * 6, CALL, right)
    assert len(episode.boxes_px) == 2  # copies are one call
    with pytest.raises(ValueError, match="tool must be one of on, off, blank, .*, got 'half'"):
        scripted(processor, [samples[0]], CALL, tool="half")


def test_the_crop_is_the_tool_s_and_blank_crops_are_grey(processor, samples):
    row = samples[0]
    expected, _ = zoom(row["image"], (38.4, 76.8, 115.2, 153.6))
    (seen,), (grey,) = (
        scripted(processor, [row], CALL, ANSWER, tool=tool) for tool in ("on", "blank")
    )
    assert seen.images[1].tobytes() == expected.tobytes()
    assert grey.images[1].getcolors() == [(77 * 77, (128, 128, 128))]
    assert seen.boxes_px == grey.boxes_px == [pytest.approx((38.4, 76.8, 115.2, 153.6))]
    assert seen.completion_ids == grey.completion_ids


def test_the_crop_of_the_other_control_is_cut_out_of_the_next_image(processor, samples):
    rows = list(samples)[:3]
    box = (38.4, 76.8, 115.2, 153.6)
    for batch_size in (1, 2, 3):
        episodes = scripted(processor, rows, CALL, ANSWER, tool="other", batch_size=batch_size)
        for i, episode in enumerate(episodes):
            expected, _ = zoom(rows[(i + 1) % 3]["image"], box)
            assert episode.images[1].tobytes() == expected.tobytes()
            assert episode.images[0] is rows[i]["image"]
            assert episode.boxes_px == [pytest.approx(box)]
    small = {**rows[1], "image": rows[1]["image"].resize((96, 48))}
    (first, _) = scripted(processor, [rows[0], small], CALL, ANSWER, tool="other")
    assert first.images[1].size == (77, 77) and first.boxes_px == [pytest.approx(box)]
    with pytest.raises(ValueError, match="one sample only"):
        scripted(processor, rows[:1], CALL, ANSWER, tool="other")


def test_the_mask_is_on_what_the_model_wrote_and_the_answer_to_a_call_is_kept(processor, samples):
    (episode,) = scripted(processor, [samples[0]], OUTSIDE, CALL, ANSWER)
    tokens = zip(episode.completion_ids, episode.loss_mask, strict=True)
    written = processor.tokenizer.decode([i for i, mask in tokens if mask])
    assert written == prompts.TURN_END.join([OUTSIDE, CALL, ANSWER, ""])
    first, second, last = episode.turns
    assert "outside the image" in first.errors[0] and not first.boxes_px
    assert second.boxes_px and not second.errors
    assert last.text == ANSWER and episode.called


def test_an_episode_never_exceeds_its_calls_or_its_budget_and_never_cuts_a_crop(processor, samples):
    for n in (1, 2, 6):
        (episode,) = scripted(processor, [samples[0]], *[CALL] * 9, max_calls=n)
        assert len(episode.turns) == len(episode.images) == n + 1
    for budget in (10, 30, 60, 64, 65, 66, 100, 200):
        script = [CALL] * 6 + [ANSWER]
        (episode,) = scripted(processor, [samples[0]], *script, max_completion_length=budget)
        assert len(episode.completion_ids) == len(episode.loss_mask) <= budget
        pads = episode.completion_ids.count(processor.image_token_id)
        assert pads == 36 * (len(episode.images) - 1) == 36 * len(episode.boxes_px)


def test_batches_do_not_mix_episodes_and_rows_may_come_from_a_generator(processor, samples):
    rows, script = list(samples), {}
    for i, row in enumerate(rows):
        script[row["id"]] = [CALL] * (i % 3) + [prompts.answer("!", str(i))]
    policy = ScriptedPolicy(processor, script)
    together = rollout(rows, policy, batch_size=64, progress=False)
    parts = rollout((row for row in rows), policy, batch_size=3, progress=False)
    for i, (a, b) in enumerate(zip(together, parts, strict=True)):
        assert a.answer == str(i) and len(a.images) == 1 + i % 3
        assert a.completion_ids == b.completion_ids and a.sample == b.sample
