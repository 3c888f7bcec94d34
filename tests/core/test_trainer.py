"""ZoomTrainer: what is spared changes neither loss nor gradient, and a blind step stops the run."""

import pytest
import torch
from peft.tuners.lora import LoraLayer
from trl import GRPOTrainer

from deepeyes_lite import prompts, training
from deepeyes_lite.fast import merged_adapters, select
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import ImagesDropped, ZoomTrainer, build_trainer

CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})
SCRIPTS = {
    "none": [prompts.answer("I can see it.", "K")],
    "long": ["<think>" + "?" * 20 + "</think><answer>K</answer>"],
    "one": [CALL, prompts.answer("I can read it.", "K")],
    "two": [CALL, CALL, prompts.answer("I can read it.", "L")],
    "refused": [prompts.tool_call({"bbox_2d": "here"}), prompts.answer("?", "A")],
}


@pytest.fixture(scope="module")
def trainer(random_eyes, tmp_path_factory):
    config = training.RunConfig(
        model=str(random_eyes), steps=1, prompts_per_step=2, num_generations=2
    )
    out = tmp_path_factory.mktemp("run")
    trainer = build_trainer(config, out, training_questions(config))
    torch.manual_seed(0)
    with torch.no_grad():  # a fresh adapter does nothing, so that nothing could be told apart
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


@pytest.fixture
def batch(trainer, samples):
    """A function that makes TRL's batch out of scripted episodes and advantages."""
    processor = trainer.processing_class
    device = trainer.accelerator.device

    def padded(rows, value, left=False):
        longest = max(map(len, rows))
        fill = [[value] * (longest - len(row)) for row in rows]
        return torch.tensor([f + row if left else row + f for f, row in zip(fill, rows)]).to(device)

    def batch(**episodes):
        policy = ScriptedPolicy(processor, {})
        found = []
        for number, name in enumerate(episodes):
            policy.script = SCRIPTS[name.split("_")[0]]
            row = samples[number]
            if number % 2:  # prompts of different lengths
                row = {**row, "question": "What?"}
            found += rollout([row], policy, progress=False)
        prompt = [t.prompt_ids for t in found]
        completion = [t.completion_ids for t in found]
        pad = processor.tokenizer.pad_token_id
        prompt_ids, completion_ids = padded(prompt, pad, left=True), padded(completion, pad)
        ids = torch.cat([prompt_ids, completion_ids], 1)
        pixels = processor.image_processor(
            images=[image for t in found for image in t.images], return_tensors="pt"
        )
        return {
            "prompt_ids": prompt_ids,
            "prompt_mask": padded([[1] * len(row) for row in prompt], 0, left=True),
            "completion_ids": completion_ids,
            "completion_mask": padded([[1] * len(row) for row in completion], 0),
            "tool_mask": padded([t.loss_mask for t in found], 1),
            "advantages": torch.tensor(list(episodes.values()), device=device),
            "num_items_in_batch": torch.tensor(float(sum(map(len, completion))), device=device),
            "num_images": [len(t.images) for t in found],
            "mm_token_type_ids": (ids == processor.image_token_id).long(),
            **{name: value.to(device) for name, value in pixels.items()},
        }

    return batch


def loss_and_gradient(trainer, inputs, stock=False):
    trainer.model.zero_grad()
    trainer_class = GRPOTrainer if stock else ZoomTrainer
    loss = trainer_class._compute_loss(trainer, trainer.model, inputs)
    loss.backward()
    weights = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert weights and all("lora" in name for name in weights)
    return loss.item(), torch.cat([p.grad.flatten() for p in weights.values()])


@pytest.fixture
def computed(trainer, monkeypatch):
    """The shapes of (episodes, tokens) of every forward pass."""
    shapes = []
    real = GRPOTrainer._get_per_token_logps_and_entropies

    def count(self, model, input_ids, *args, **kwargs):
        shapes.append(tuple(input_ids.shape))
        return real(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", count)
    return shapes


@pytest.mark.parametrize(
    ("episodes", "forwards"),
    [
        (dict(one=1.0, none=-0.5, two=0.3, long=0.0, one_b=0.0, none_b=0.7), [2, 1, 1]),
        (dict(none=1.0, long=-1.0, refused=0.0), [2]),
        (dict(one=1.0, one_b=-1.0, one_c=0.2), [3]),
        (dict(none=0.0, two=1.5), [1]),
        (dict(none=0.0, two=0.0, one=0.0), [1]),
    ],
)
def test_loss_and_gradient_are_trl_s(trainer, batch, computed, episodes, forwards):
    inputs = batch(**episodes)
    ours, our_gradient = loss_and_gradient(trainer, inputs)
    assert [n for n, _ in computed] == forwards
    theirs, their_gradient = loss_and_gradient(trainer, inputs, stock=True)
    assert ours == pytest.approx(theirs, abs=1e-6)
    scale = their_gradient.abs().max()
    assert (scale > 1e-4) == any(episodes.values())
    assert torch.allclose(our_gradient, their_gradient, atol=1e-4 * float(scale) + 1e-9)


def test_a_short_episode_is_not_padded_to_the_longest(trainer, batch, computed):
    inputs = batch(none=1.0, two=1.0)
    whole = inputs["prompt_ids"].size(1) + inputs["completion_ids"].size(1)
    loss_and_gradient(trainer, inputs)
    (_, short), (_, long) = computed
    assert short < long <= whole


def test_other_losses_are_left_to_trl(trainer, batch, computed, monkeypatch):
    monkeypatch.setattr(trainer, "loss_type", "grpo")
    inputs = batch(none=1.0, two=0.0)
    ours = loss_and_gradient(trainer, inputs)
    theirs = loss_and_gradient(trainer, inputs, stock=True)
    assert [n for n, _ in computed] == [2, 2]
    assert ours[0] == theirs[0] and torch.allclose(ours[1], theirs[1], atol=1e-8)


def test_a_selection_has_its_episodes_whole(batch):
    inputs = batch(one=1.0, none=2.0, two=3.0, long=4.0)
    inputs["old_per_token_logps"] = torch.rand(inputs["completion_ids"].shape)
    for rows in ([2, 0], [1], [0, 1, 2, 3]):
        some = select(inputs, rows)
        assert some["advantages"].tolist() == [rows_ + 1.0 for rows_ in rows]
        assert some["num_images"] == [inputs["num_images"][i] for i in rows]
        assert some["num_items_in_batch"] == inputs["num_items_in_batch"]
        width = some["prompt_ids"].size(1) + some["completion_ids"].size(1)
        assert some["mm_token_type_ids"].shape == (len(rows), width)
        assert some["old_per_token_logps"].shape == some["completion_ids"].shape
        longest = [
            int(inputs[f"{part}_mask"][rows].sum(1).max()) for part in ("prompt", "completion")
        ]
        assert width == sum(longest)
        images = torch.split(inputs["pixel_values"], [144 * n for n in inputs["num_images"]])
        assert torch.equal(some["pixel_values"], torch.cat([images[i] for i in rows]))
        assert len(some["image_grid_thw"]) == sum(some["num_images"])
        for k, i in enumerate(rows):
            for part in ("prompt", "completion"):
                ours, theirs = some[f"{part}_mask"][k].bool(), inputs[f"{part}_mask"][i].bool()
                for name in [f"{part}_ids"] + ["tool_mask"] * (part == "completion"):
                    assert some[name][k][ours].tolist() == inputs[name][i][theirs].tolist()
            seen = torch.cat([some["prompt_mask"][k], some["completion_mask"][k]]).bool()
            assert int(some["mm_token_type_ids"][k][seen].sum()) == 36 * some["num_images"][k]


# --- prompts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_prompts_are_tokenised_as_trl_does(trainer, samples, monkeypatch, mode):
    getattr(trainer.model, mode)()
    group = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    conversations = []
    for row in list(samples)[:3]:
        content = [
            {"type": "image", "image": row["image"]},
            {"type": "text", "text": row["question"]},
        ]
        conversations += [[{"role": "user", "content": content}] for _ in range(group)]
    monkeypatch.setattr(trainer, "_batch_environments", [None] * len(conversations), raising=False)
    ids, images, fields = trainer._tokenize_prompts(conversations)
    their_ids, their_images, their_fields = GRPOTrainer._tokenize_prompts(trainer, conversations)
    trainer.model.train()
    assert trainer._batch_environments == [None] * len(conversations)
    assert [list(row) for row in ids] == [list(row) for row in their_ids]
    assert images == their_images
    assert set(fields) == set(their_fields)
    for name in fields:
        ours, theirs = (torch.as_tensor(_stacked(f[name])) for f in (fields, their_fields))
        assert torch.equal(ours, theirs), name


def _stacked(values):
    if isinstance(values, torch.Tensor):
        return values
    if len({len(row) for row in values}) > 1:  # rows of different lengths
        return torch.tensor([i for row in values for i in row])
    return torch.stack([torch.as_tensor(row) for row in values])


# --- images dropped -----------------------------------------------------------------------------


def step(trainer, row, script=None, monkeypatch=None):
    """One step's rollouts on a row; its turns are scripted or generated."""
    tokenizer = trainer.processing_class.tokenizer
    if script:
        turns = iter(script)

        def generate(input_ids, **_):
            new = tokenizer(next(turns) + prompts.TURN_END, add_special_tokens=False)["input_ids"]
            new = torch.tensor([new] * len(input_ids), device=input_ids.device)
            return torch.cat([input_ids, new], dim=1)

        monkeypatch.setattr(trainer.model, "generate", generate)
    row = {**row, "prompt": [{"role": "user", "content": row["question"]}]}
    trainer.model.train()
    return trainer._generate_and_score_completions([dict(row), dict(row)])


@pytest.mark.parametrize(
    "script",
    [
        [CALL, "<answer><|image_pad|></answer>"],
        [CALL, "<answer><|vision_start|><|image_pad|><|vision_end|></answer>"],
        ["<answer><|image_pad|></answer>"],
        ["<answer>" + "<|image_pad|>" * 36 + "</answer>"],
    ],
)
def test_an_image_placeholder_in_a_reply_stops_the_run(trainer, samples, monkeypatch, script):
    with pytest.raises(ImagesDropped, match="step 0: image tokens and image features disagree"):
        step(trainer, samples[0], script, monkeypatch)


def test_a_crop_that_is_cut_off_is_left_out_with_its_image(trainer, samples, monkeypatch):
    """TRL ends an episode whose observation does not fit, so that nothing is cut."""
    monkeypatch.setattr(trainer, "max_completion_length", 40)
    output = step(trainer, samples[0], SCRIPTS["one"], monkeypatch)
    assert output["num_images"] == [1, 1]


@pytest.mark.parametrize("suppressed", [True, False])
def test_the_suppression_is_what_keeps_placeholders_out(trainer, samples, monkeypatch, suppressed):
    pad = trainer.processing_class.image_token_id

    def prefer(module, args, logits):
        logits = logits.clone()
        logits[..., pad] += 100
        return logits

    handle = trainer.model.get_base_model().lm_head.register_forward_hook(prefer)
    try:
        if suppressed:
            output = step(trainer, samples[0])
            assert not (output["completion_ids"] == pad).any()
            return
        monkeypatch.setattr(trainer.generation_config, "suppress_tokens", None)
        monkeypatch.setattr(trainer, "generation_kwargs", {"max_new_tokens": 8})
        with pytest.raises(ImagesDropped):
            step(trainer, samples[0])
    finally:
        handle.remove()


# --- merged adapters ----------------------------------------------------------------------------


def logits(trainer, inputs):
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    names = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    with torch.no_grad():
        output = trainer.model(
            input_ids=ids, attention_mask=mask, **{name: inputs[name] for name in names}
        )
    return output.logits[mask.bool()]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_merged_adapters_give_the_same_logits(trainer, batch):
    inputs = batch(one=1.0, none=1.0)
    outside = logits(trainer, inputs)
    with trainer.model.disable_adapter():
        assert (logits(trainer, inputs) - outside).abs().max() > 1e-2
    with merged_adapters(trainer.model):
        layers = [m for m in trainer.model.modules() if isinstance(m, LoraLayer)]
        assert len(layers) == 28 and all(layer.merged for layer in layers)
        assert (logits(trainer, inputs) - outside).abs().max() < 1e-4
    assert torch.equal(logits(trainer, inputs), outside)


@pytest.mark.parametrize("fails", [False, True])
def test_weights_are_what_they_were_to_the_bit(trainer, fails):
    before = weights(trainer)
    for _ in range(5):
        try:
            with merged_adapters(trainer.model):
                changed = weights(trainer)
                if fails:
                    raise KeyError("inside")
        except KeyError:
            assert fails
    after = weights(trainer)
    assert any(not torch.equal(changed[name], before[name]) for name in before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(m.merged for m in trainer.model.modules() if isinstance(m, LoraLayer))


def test_generation_runs_with_merged_adapters(trainer, samples, monkeypatch):
    seen = []
    real = trainer.model.generate

    def generate(*args, **kwargs):
        layers = [m for m in trainer.model.modules() if isinstance(m, LoraLayer)]
        seen.append(all(layer.merged for layer in layers))
        return real(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "generate", generate)
    before = weights(trainer)
    step(trainer, samples[0])
    assert seen and all(seen)
    after = weights(trainer)
    assert all(torch.equal(after[name], before[name]) for name in before)
