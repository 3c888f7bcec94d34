"""ZoomTrainer: what is spared changes neither loss nor gradient, and a blind step stops the run."""

from contextlib import suppress

import pytest
import torch
from peft.tuners.lora import LoraLayer
from trl import GRPOTrainer
from trl.trainer.utils import pad

from deepeyes_lite import prompts
from deepeyes_lite.config import PRESETS
from deepeyes_lite.fast import merged_adapters, select
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import (
    ImagesDropped,
    RunConfig,
    ZoomTrainer,
    build_trainer,
    sampling,
)
from trl_episode import script_generation

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
    config = RunConfig(model=str(random_eyes), steps=1, prompts_per_step=2, num_generations=2)
    trainer = build_trainer(config, tmp_path_factory.mktemp("run"), training_questions(config))
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

    def padded(rows, value, side="right"):
        return pad([torch.tensor(row) for row in rows], value, side)

    def batch(**advantages):
        episodes = []
        for number, name in enumerate(advantages):
            policy = ScriptedPolicy(processor, SCRIPTS[name.split("_")[0]])
            row = samples[number]
            if number % 2:  # prompts of different lengths
                row = {**row, "question": "What?"}
            episodes += rollout([row], policy, progress=False)
        prompt = [t.prompt_ids for t in episodes]
        completion = [t.completion_ids for t in episodes]
        filler = processor.tokenizer.pad_token_id
        prompt_ids = padded(prompt, filler, "left")
        completion_ids = padded(completion, filler)
        ids = torch.cat([prompt_ids, completion_ids], 1)
        pixels = processor.image_processor(
            images=[image for t in episodes for image in t.images], return_tensors="pt"
        )
        inputs = {
            "prompt_ids": prompt_ids,
            "prompt_mask": padded([[1] * len(row) for row in prompt], 0, "left"),
            "completion_ids": completion_ids,
            "completion_mask": padded([[1] * len(row) for row in completion], 0),
            "tool_mask": padded([t.loss_mask for t in episodes], 1),
            "advantages": torch.tensor(list(advantages.values())),
            "num_items_in_batch": torch.tensor(float(sum(map(len, completion)))),
            "mm_token_type_ids": (ids == processor.image_token_id).long(),
            **pixels,
        }
        inputs = {name: value.to(trainer.accelerator.device) for name, value in inputs.items()}
        return {**inputs, "num_images": [len(t.images) for t in episodes]}

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
    shapes, real = [], GRPOTrainer._get_per_token_logps_and_entropies

    def count(self, model, input_ids, *args, **kwargs):
        shapes.append(tuple(input_ids.shape))
        return real(self, model, input_ids, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", count)
    return shapes


@pytest.mark.parametrize(
    ("advantages", "forwards"),
    [
        (dict(one=1.0, none=-0.5, two=0.3, long=0.0, one_b=0.0, none_b=0.7), [2, 1, 1]),
        (dict(none=1.0, long=-1.0, refused=0.0), [2]),
        (dict(one=1.0, one_b=-1.0, one_c=0.2), [3]),
        (dict(none=0.0, two=1.5), [1]),
        (dict(none=0.0, two=0.0, one=0.0), [1]),
    ],
)
def test_loss_and_gradient_are_trl_s(trainer, batch, computed, advantages, forwards):
    inputs = batch(**advantages)
    ours, our_gradient = loss_and_gradient(trainer, inputs)
    assert [n for n, _ in computed] == forwards
    theirs, their_gradient = loss_and_gradient(trainer, inputs, stock=True)
    assert ours == pytest.approx(theirs, abs=1e-6)
    scale = their_gradient.abs().max()
    assert (scale > 1e-4) == any(advantages.values())
    assert torch.allclose(our_gradient, their_gradient, atol=1e-4 * float(scale) + 1e-9)


def test_a_short_episode_is_not_padded_and_other_losses_are_left_to_trl(
    trainer, batch, computed, monkeypatch
):
    inputs = batch(none=1.0, two=1.0)
    longest = inputs["prompt_ids"].size(1) + inputs["completion_ids"].size(1)
    loss_and_gradient(trainer, inputs)
    (_, short), (_, long) = computed
    assert short < long <= longest
    computed.clear()
    monkeypatch.setattr(trainer, "loss_type", "grpo")
    inputs = batch(none=1.0, two=0.0)
    ours = loss_and_gradient(trainer, inputs)
    theirs = loss_and_gradient(trainer, inputs, stock=True)
    assert [n for n, _ in computed] == [2, 2]
    assert ours[0] == theirs[0] and torch.allclose(ours[1], theirs[1], atol=1e-8)


def test_a_selection_has_its_episodes_complete(batch):
    inputs = batch(one=1.0, none=2.0, two=3.0, long=4.0)
    images = torch.split(inputs["pixel_values"], [144 * n for n in inputs["num_images"]])
    for rows in ([2, 0], [1], [0, 1, 2, 3]):
        chosen = select(inputs, rows)
        assert chosen["advantages"].tolist() == [row + 1.0 for row in rows]
        assert chosen["num_images"] == [inputs["num_images"][i] for i in rows]
        assert torch.equal(chosen["pixel_values"], torch.cat([images[i] for i in rows]))
        for name in ("prompt_ids", "completion_ids", "tool_mask"):
            mask = "prompt_mask" if name == "prompt_ids" else "completion_mask"
            assert chosen[name].size(1) == inputs[mask][rows].sum(1).max()
            for k, i in enumerate(rows):
                ours, theirs = chosen[mask][k].bool(), inputs[mask][i].bool()
                assert chosen[name][k][ours].tolist() == inputs[name][i][theirs].tolist()


# --- prompts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_prompts_are_tokenised_as_trl_does(trainer, samples, monkeypatch, mode):
    getattr(trainer.model, mode)()
    group = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    conversations = []
    for row in list(samples)[:3]:
        content = [{"type": "image", "image": row["image"]}]
        content += [{"type": "text", "text": row["question"]}]
        conversations += [[{"role": "user", "content": content}] for _ in range(group)]
    monkeypatch.setattr(trainer, "_batch_environments", [None] * len(conversations), raising=False)
    ids, images, fields = trainer._tokenize_prompts(conversations)
    their_ids, their_images, their_fields = GRPOTrainer._tokenize_prompts(trainer, conversations)
    trainer.model.train()
    assert trainer._batch_environments == [None] * len(conversations)
    assert [list(row) for row in ids] == [list(row) for row in their_ids]
    assert images == their_images and set(fields) == set(their_fields)
    for name, ours in fields.items():
        assert len(ours) == len(their_fields[name])
        for a, b in zip(ours, their_fields[name]):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), name


# --- reading in chunks ---------------------------------------------------------------------------


def test_a_conversation_read_in_chunks_is_continued_alike(trainer, samples, monkeypatch):
    """Chunks end inside an image, too; tokens and images of a sampled step are those without chunks."""
    assert trainer.generation_config.prefill_chunk_size is None
    lengths, forward = [], trainer.model.get_base_model().model.language_model.forward

    def watched(*args, **kwargs):
        lengths.append(kwargs["inputs_embeds"].size(1))
        return forward(*args, **kwargs)

    monkeypatch.setattr(trainer.model.get_base_model().model.language_model, "forward", watched)
    outputs = []
    for chunk in (None, 23):
        monkeypatch.setattr(trainer.generation_config, "prefill_chunk_size", chunk)
        lengths.clear()
        torch.manual_seed(5)
        outputs.append(step(trainer, samples[0]))
    assert lengths[:3] == [23, 23, 6]  # of 52 tokens, 36 of which are the image's
    whole, chunked = outputs
    assert torch.equal(whole["completion_ids"], chunked["completion_ids"])
    assert torch.equal(whole["pixel_values"], chunked["pixel_values"])


def test_a_preset_for_a_gpu_reads_in_chunks(trainer):
    chunks = {n: sampling(c, trainer.processing_class) for n, c in PRESETS.items()}
    chunks = {name: bounds["prefill_chunk_size"] for name, bounds in chunks.items()}
    assert chunks.pop("demo") is chunks.pop("quick") is None and {*chunks.values()} == {512}


def test_images_of_the_step_before_are_let_go(trainer, samples):
    trainer._buffered_inputs = [{"pixel_values": torch.zeros(1)}]
    step(trainer, samples[0])
    assert trainer._buffered_inputs is None


# --- images dropped -----------------------------------------------------------------------------


def step(trainer, row, script=None, monkeypatch=None):
    """One step's rollouts on a row; its turns are scripted or generated."""
    if script:
        script_generation(trainer, script, monkeypatch)
    row = {**row, "prompt": [{"role": "user", "content": row["question"]}]}
    trainer.model.train()
    return trainer._generate_and_score_completions([dict(row), dict(row)])


PLACEHOLDERS = [
    "<|image_pad|>",
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|image_pad|>" * 36,
]


def test_an_image_placeholder_in_a_reply_stops_the_run(trainer, samples, monkeypatch):
    answers = [[f"<answer>{text}</answer>"] for text in PLACEHOLDERS]
    for script in [*answers, [CALL, *answers[0]], [CALL, *answers[1]]]:
        with pytest.raises(ImagesDropped, match="step 0: image tokens and image features disagree"):
            step(trainer, samples[0], script, monkeypatch)


def test_the_suppression_is_what_keeps_placeholders_out(trainer, samples, monkeypatch):
    pad = trainer.processing_class.image_token_id

    def prefer(module, args, logits):
        logits = logits.clone()
        logits[..., pad] += 100
        return logits

    handle = trainer.model.get_base_model().lm_head.register_forward_hook(prefer)
    try:
        assert not (step(trainer, samples[0])["completion_ids"] == pad).any()
        monkeypatch.setattr(trainer.generation_config, "suppress_tokens", None)
        monkeypatch.setattr(trainer, "generation_kwargs", {"max_new_tokens": 8})
        with pytest.raises(ImagesDropped):
            step(trainer, samples[0])
    finally:
        handle.remove()


# --- merged adapters ----------------------------------------------------------------------------


def logits(trainer, inputs):
    names = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    fields = {name: inputs[name] for name in names}
    fields["input_ids"] = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    with torch.no_grad():
        return trainer.model(attention_mask=mask, **fields).logits[mask.bool()]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def all_merged(trainer):
    layers = [m for m in trainer.model.modules() if isinstance(m, LoraLayer)]
    return len(layers) == 28 and all(layer.merged for layer in layers)


def test_merged_adapters_give_the_same_logits(trainer, batch):
    inputs = batch(one=1.0, none=1.0)
    outside = logits(trainer, inputs)
    with trainer.model.disable_adapter():
        assert (logits(trainer, inputs) - outside).abs().max() > 1e-2
    with merged_adapters(trainer.model):
        assert all_merged(trainer)
        assert (logits(trainer, inputs) - outside).abs().max() < 1e-4
    assert torch.equal(logits(trainer, inputs), outside)


def test_weights_are_what_they_were_to_the_bit(trainer, samples, monkeypatch):
    before = weights(trainer)
    for error in (None, None, KeyError, None, KeyError):
        with suppress(KeyError), merged_adapters(trainer.model):
            changed = weights(trainer)
            if error:
                raise error("inside")
    assert any(not torch.equal(changed[name], before[name]) for name in before)
    merged, real = [], trainer.model.generate

    def generate(*args, **kwargs):
        merged.append(all_merged(trainer))
        return real(*args, **kwargs)

    monkeypatch.setattr(trainer.model, "generate", generate)
    step(trainer, samples[0])
    assert merged and all(merged)  # generation runs with merged adapters
    after = weights(trainer)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(m.merged for m in trainer.model.modules() if isinstance(m, LoraLayer))
