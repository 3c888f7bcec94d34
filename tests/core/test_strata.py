"""Stratified groups: some rollouts of each group answer at once, some call, and the rest are free."""

import pytest
import torch

from deepeyes_lite import training
from deepeyes_lite.models import load
from deepeyes_lite.policies import ForcedChoice, LocalPolicy
from deepeyes_lite.rewards import REWARDS, Outcome, reward, variant
from deepeyes_lite.tinyworld.dataset import tiny_world, training_questions
from deepeyes_lite.training import RunConfig, build_trainer, read_history, train
from deepeyes_lite.trajectories import Trajectory

TAGS = ("<answer>", "<tool_call>")


def test_a_forced_row_makes_its_choice_where_its_thought_ends(samples):
    model, processor = load("tiny-eyes")
    policy = LocalPolicy(model, processor)
    tags = {0: "<answer>", 1: "<tool_call>", 2: "<answer>", 3: "<tool_call>"}
    episodes = [
        Trajectory(
            sample=row,
            images=[row["image"]],
            prompt_ids=policy.prompt_ids(row["question"], row["image"]),
        )
        for row in samples
    ]
    longest = max(len(t.prompt_ids) for t in episodes)
    choice = ForcedChoice(processor.tokenizer, tags, longest)
    plain = model.generate
    model.generate = lambda **inputs: plain(**inputs, logits_processor=[choice])
    for seed in range(4):
        torch.manual_seed(seed)
        choice.forced_at.clear()
        replies = policy.reply(episodes)
        assert set(choice.forced_at) == set(tags)
        for row, tag in tags.items():
            text = policy.text(replies[row])
            (other,) = set(TAGS) - {tag}
            assert f"</think>{tag}" in text and other not in text.split(tag)[0]
            forced = [replies[row][i] for i in choice.forced_at[row]]
            assert processor.tokenizer.decode(forced) == tag


def test_what_was_forced_is_marked_left_out_of_the_history_and_not_punished(tmp_path, monkeypatch):
    config = RunConfig(
        model="tiny-eyes",
        reward="none",
        steps=2,
        prompts_per_step=2,
        forced_direct=2,
        forced_calls=3,
    )
    seen, outputs = [], []

    def watch(outcomes, environments, **_):
        seen.append(outcomes)
        return [0.0] * len(outcomes)

    real = training.ZoomTrainer._generate_and_score_completions

    def keep(trainer, inputs):
        outputs.append((real(trainer, inputs), trainer._choice.forced_at))
        return outputs[-1][0]

    monkeypatch.setattr(training.ZoomTrainer, "_generate_and_score_completions", keep)
    train(config, tmp_path, training_questions(config), rewards={watch: 0.0})
    for outcomes in seen:
        forced = [outcome.forced for outcome in outcomes]
        assert forced == (["<answer>"] * 2 + ["<tool_call>"] * 3 + [""] * 3) * 2
        assert not any(o.calls for o in outcomes if o.forced == "<answer>")
        assert all(o.attempts for o in outcomes if o.forced == "<tool_call>")
    punished = 0
    for output, forced_at in outputs:
        assert sorted(forced_at) == [*range(5), *range(8, 13)]
        for row, places in forced_at.items():
            kept = output["tool_mask"][row, places.start : places.stop].tolist()
            assert kept == [int(output["advantages"][row] >= 0)] * len(places)
            punished += 1 - kept[0]
    assert punished
    for outcomes, row in zip(seen, read_history(tmp_path / "history.csv"), strict=True):
        free = [o for o in outcomes if not o.forced]
        assert row["n_zoom"] == sum(o.calls > 0 for o in free)
        assert row["n_zoom"] + row["n_direct"] == len(free) == 6
        assert row["call_rate"] == pytest.approx(row["n_zoom"] / 6, abs=1e-5)
        assert row["accuracy"] == pytest.approx(sum(o.correct for o in free) / 6, abs=1e-5)
        direct = [o.correct for o in outcomes if o.forced == "<answer>"]
        assert row["p_forced"] == pytest.approx(sum(direct) / 4, abs=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"forced_direct": 5, "forced_calls": 4},
            "5 answers and 4 calls cannot be forced in a group of 8",
        ),
        ({"forced_direct": -1}, "-1 answers and 0 calls cannot be forced"),
        ({"forced_calls": 1, "reward": "text_only"}, "need a reward variant with the tool"),
        ({"forced_calls": 1, "trl": {"use_vllm": True}}, "with vLLM, ask each question twice"),
    ],
)
def test_strata_that_cannot_be_are_refused(changes, message, random_eyes, tmp_path):
    config = RunConfig(model=str(random_eyes), steps=1, prompts_per_step=1, **changes)
    with pytest.raises(ValueError, match=message):
        build_trainer(config, tmp_path, tiny_world("train", 2))


def test_a_bonus_by_need_and_a_price_on_calls():
    group = [
        Outcome(True, True, 1, group_direct=0.25),
        Outcome(False, True, 2, group_direct=0.25),
        Outcome(True, True, 0, group_direct=0.25),
    ]
    assert REWARDS["need_gated_bonus"](group) == [0.75, 0.0, 0.0]
    assert REWARDS["call_cost"](group) == [-1.0, -2.0, 0.0]
    priced = training.reward_weights(RunConfig(reward="none", call_cost=0.1))
    assert priced == {**variant("none"), "call_cost": 0.1}
    assert reward(priced, True, True, 2) == pytest.approx(0.8 - 0.2)
