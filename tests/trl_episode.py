"""An episode as TRL builds it, which the tests hold the rollout loop to."""

import torch

from deepeyes_lite import prompts


def script_generation(trainer, script, monkeypatch):
    """Let the model of TRL's trainer write these turns, whatever it sees."""
    tokenizer, turns = trainer.processing_class.tokenizer, iter(script)

    def generate(input_ids, **_):
        new = tokenizer(next(turns) + prompts.TURN_END, add_special_tokens=False)["input_ids"]
        new = torch.tensor([new] * len(input_ids), device=input_ids.device)
        return torch.cat([input_ids, new], dim=1)

    monkeypatch.setattr(trainer.model, "generate", generate)


def trl_episode(trainer, row, script, monkeypatch, suffix=""):
    """The episode as TRL's trainer builds it, with generation replaced by the script."""
    script_generation(trainer, script, monkeypatch)
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
