"""The hand-written loop and TRL's environment are the same episode."""

from itertools import groupby
from operator import itemgetter

import pytest
import torch

from deepeyes_lite import prompts
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.tools import zoom
from deepeyes_lite.training import RunConfig, build_trainer

CALL = "<think>I need to zoom in.</think>" + prompts.tool_call(
    {"bbox_2d": [100, 200, 300, 400], "label": "red circle"}
)
OUTSIDE = prompts.tool_call({"bbox_2d": [1200, 1200, 1300, 1300]})
ANSWER = prompts.answer("I can read it.", "K")
SCRIPTS = {
    "one call": [CALL, ANSWER],
    "no call": [ANSWER],
    "two calls": [CALL, CALL, ANSWER],
    "two calls in one turn": [CALL + prompts.tool_call({"bbox_2d": [0, 0, 500, 500]}), ANSWER],
    "refused call": [OUTSIDE, ANSWER],
    "not a list": [prompts.tool_call({"bbox_2d": "here"}), ANSWER],
    "no arguments": [prompts.tool_call({}), ANSWER],
    "unknown argument": [prompts.tool_call({"bbox_2d": [0, 0, 9, 9], "angle": 1}), ANSWER],
    "arguments are a list": [
        '<tool_call>{"name": "image_zoom_in_tool", "arguments": [1]}</tool_call>',
        ANSWER,
    ],
    "unknown tool": ['<tool_call>{"name": "rotate", "arguments": {}}</tool_call>', ANSWER],
    "a call that is no object": ["<tool_call>[1]</tool_call>", ANSWER],
    "a call without a name": ['<tool_call>{"arguments": {}}</tool_call>', ANSWER],
    "malformed call": ["<tool_call>{nonsense</tool_call>", ANSWER],
    "unclosed call": ["<tool_call>{", ANSWER],
    "seven calls": [CALL] * 7 + [ANSWER],
}


@pytest.fixture(scope="module")
def trainer(random_eyes, tmp_path_factory):
    config = RunConfig(model=str(random_eyes), steps=1, prompts_per_step=1, num_generations=2)
    return build_trainer(config, tmp_path_factory.mktemp("run"), training_questions(config))


def trl_episode(trainer, row, script, monkeypatch, suffix=""):
    """The episode as TRL's trainer builds it, with generation replaced by the script."""
    tokenizer = trainer.processing_class.tokenizer
    turns = iter(script)

    def generate(input_ids, **_):
        text = next(turns) + prompts.TURN_END
        new = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert input_ids.shape[0] == 2
        return torch.cat([input_ids, torch.tensor([new, new])], dim=1)

    monkeypatch.setattr(trainer.model, "generate", generate)
    row = {**row, "prompt": [{"role": "user", "content": row["question"] + suffix}]}
    trainer.model.train()
    output = trainer._generate_and_score_completions([row, dict(row)])
    kept = output["completion_mask"][0].bool()
    prompt = output["prompt_ids"][0][output["prompt_mask"][0].bool()]
    return {
        "prompt_ids": prompt.tolist(),
        "completion_ids": output["completion_ids"][0][kept].tolist(),
        "loss_mask": output["tool_mask"][0][kept].tolist(),
        "images": len(output["image_grid_thw"]) // 2,
    }


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_episode_as_trl(name, trainer, processor, samples, monkeypatch):
    row = samples[0]
    (ours,) = rollout([row], ScriptedPolicy(processor, SCRIPTS[name]), progress=False)
    theirs = trl_episode(trainer, row, SCRIPTS[name], monkeypatch)
    assert ours.prompt_ids == theirs["prompt_ids"]
    assert ours.completion_ids == theirs["completion_ids"]
    assert ours.loss_mask == theirs["loss_mask"]
    assert len(ours.images) == theirs["images"]


# --- the loop alone -----------------------------------------------------------------------------


def scripted(processor, rows, *script, **arguments):
    policy = ScriptedPolicy(processor, list(script))
    return rollout(rows, policy, progress=False, **arguments)


def test_an_unknown_tool_is_refused(processor, samples):
    with pytest.raises(ValueError, match="tool must be one of on, off, blank, other, got 'half'"):
        scripted(processor, samples, ANSWER, tool="half")


def test_an_episode_is_judged_by_its_last_turn(processor, samples):
    row = samples[0]
    right = prompts.answer("!", row["answer"])
    (found,) = scripted(processor, [row], CALL, right)
    assert (found.answer, found.correct, found.well_formed) == (row["answer"], True, True)
    (found,) = scripted(processor, [row], right + CALL, "I do not know.")
    assert (found.answer, found.correct, found.well_formed) == (None, False, False)
    assert "image" not in found.sample and found.sample["id"] == row["id"]


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
        found = scripted(processor, rows, CALL, ANSWER, tool="other", batch_size=batch_size)
        for i, episode in enumerate(found):
            expected, _ = zoom(rows[(i + 1) % 3]["image"], box)
            assert episode.images[1].tobytes() == expected.tobytes()
            assert episode.images[0] is rows[i]["image"]
            assert episode.boxes_px == [pytest.approx(box)]
    small = {**rows[1], "image": rows[1]["image"].resize((96, 48))}
    (first, _) = scripted(processor, [rows[0], small], CALL, ANSWER, tool="other")
    assert first.images[1].size == (77, 77) and first.boxes_px == [pytest.approx(box)]
    with pytest.raises(ValueError, match="one sample only"):
        scripted(processor, rows[:1], CALL, ANSWER, tool="other")


def test_what_a_call_was_told_is_kept(processor, samples):
    (found,) = scripted(processor, [samples[0]], OUTSIDE, CALL, ANSWER)
    first, second, last = found.turns
    assert "outside the image" in first.errors[0] and not first.boxes_px
    assert second.boxes_px and not second.errors
    assert last.text == ANSWER and found.called


@pytest.mark.parametrize("max_calls", [1, 2, 6])
def test_an_episode_has_at_most_as_many_crops_as_calls_allowed(processor, samples, max_calls):
    (found,) = scripted(processor, [samples[0]], *[CALL] * 9, max_calls=max_calls)
    assert len(found.turns) == max_calls + 1 and len(found.images) == max_calls + 1


@pytest.mark.parametrize("budget", [10, 30, 60, 64, 65, 66, 100, 200])
def test_an_episode_never_exceeds_its_budget_and_never_cuts_a_crop(processor, samples, budget):
    (found,) = scripted(processor, [samples[0]], *[CALL] * 6, ANSWER, max_completion_length=budget)
    assert len(found.completion_ids) == len(found.loss_mask) <= budget
    pads = found.completion_ids.count(processor.image_token_id)
    assert pads == 36 * (len(found.images) - 1) == 36 * len(found.boxes_px)


def test_the_mask_is_on_what_the_model_wrote(processor, samples):
    (found,) = scripted(processor, [samples[0]], CALL, OUTSIDE, ANSWER)
    runs = [
        (m, list(g)) for m, g in groupby(zip(found.completion_ids, found.loss_mask), itemgetter(1))
    ]
    texts = [(m, processor.tokenizer.decode([i for i, _ in ids])) for m, ids in runs]
    assert [m for m, _ in texts] == [1, 0, 1, 0, 1]
    wrote = [text.removesuffix(prompts.TURN_END) for m, text in texts if m]
    assert wrote == [CALL, OUTSIDE, ANSWER]
    assert all("<tool_response>" in text for m, text in texts if not m)


def test_batches_do_not_mix_episodes(processor, samples):
    rows = list(samples)
    script = {
        row["id"]: [CALL] * (i % 3) + [prompts.answer("!", str(i))] for i, row in enumerate(rows)
    }
    whole, parts = (
        rollout(rows, ScriptedPolicy(processor, script), batch_size=n, progress=False)
        for n in (64, 3)
    )
    for i, (a, b) in enumerate(zip(whole, parts, strict=True)):
        assert a.answer == str(i) and len(a.images) == 1 + i % 3
        assert a.completion_ids == b.completion_ids and a.sample == b.sample


def test_rows_may_come_from_a_generator(processor, samples):
    found = scripted(processor, (row for row in list(samples)[:2]), ANSWER)
    assert [t.sample["id"] for t in found] == samples["id"][:2]
