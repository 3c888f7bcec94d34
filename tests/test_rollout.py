"""The hand-written loop and TRL's environment are the same episode."""

import pytest
import torch

from deepeyes_lite import prompts
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
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
    config = RunConfig(model=str(random_eyes), steps=1, prompts=1, generations=2)
    return build_trainer(config, tmp_path_factory.mktemp("run"))


def trl_episode(trainer, row, script, monkeypatch):
    """The episode as TRL's trainer builds it, with generation replaced by the script."""
    tokenizer = trainer.processing_class.tokenizer
    turns = iter(script)

    def generate(input_ids, **_):
        text = next(turns) + prompts.TURN_END
        new = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert input_ids.shape[0] == 2
        return torch.cat([input_ids, torch.tensor([new, new])], dim=1)

    monkeypatch.setattr(trainer.model, "generate", generate)
    row = {**row, "prompt": [{"role": "user", "content": row["question"]}]}
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
