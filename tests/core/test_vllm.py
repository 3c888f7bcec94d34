"""ZoomTrainer: what vLLM generates is held against transformers, through the hook by which TRL calls it.

vLLM needs a GPU. Here transformers stands in for it, in the place and with the answer that TRL expects,
and sees what it is given, or something else.
"""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from deepeyes_lite import training
from deepeyes_lite.config import preset
from deepeyes_lite.models import completion_length, ready, token_ids
from deepeyes_lite.prompts import RESERVED_TOKENS
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import (
    MOST_LOGP_DIFFERENCE,
    RolloutsDisagree,
    RunConfig,
    build_trainer,
)
from shapes import config_of, processor_of

pytestmark = pytest.mark.train


class Engine:
    """In the place of ``trl.generation.VLLMGeneration``."""

    def __init__(self, trainer, seen=lambda processor, ids, images: (ids, images), bf16=False):
        self.trainer, self.seen, self.bf16, self.prompts = trainer, seen, bf16, []
        # What TRL asks an engine in its own process.
        limit = SimpleNamespace(max_model_len=1024)
        self.llm = SimpleNamespace(llm_engine=SimpleNamespace(model_config=limit))

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, profiler):
        rows = [self.one(*pair) for pair in zip(prompts, images, strict=True)]
        return None, [ids for ids, _ in rows], [logps for _, logps in rows], None

    @torch.no_grad()
    def one(self, ids, images):
        model, processor = self.trainer.model, self.trainer.processing_class
        self.prompts.append(len(images))
        ids, images = self.seen(processor, list(ids), list(images))
        input_ids = torch.tensor([ids])
        model.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            made = model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                mm_token_type_ids=(input_ids == processor.image_token_id).int(),
                **processor.image_processor(images=images, return_tensors="pt"),
                do_sample=True,
                top_k=0,
                max_new_tokens=40,
                eos_token_id=self.trainer.eos_token_ids,
                suppress_tokens=token_ids(processor.tokenizer, RESERVED_TOKENS),
                return_dict_in_generate=True,
                output_scores=True,
            )
        model.train()
        new = made.sequences[0, len(ids) :].tolist()
        logps = [torch.log_softmax(s[0].float(), -1)[i] for s, i in zip(made.scores, new)]
        return new, [[float(logp)] for logp in logps]


def as_vllm_does(processor, ids, images):
    """The first placeholder of every run becomes as many as its image has, the others stay.

    There are no features for those that stay, so they are made into something else.
    """
    pad, rest, seen = processor.image_token_id, processor.tokenizer.pad_token_id, []
    counts = iter(
        processor.image_processor.get_number_of_image_patches(i.height, i.width, {})
        // processor.image_processor.merge_size**2
        for i in images
    )
    for i, before in zip(ids, [None, *ids]):
        if i == pad:
            seen += [rest] if before == pad else [pad] * next(counts)
        else:
            seen.append(i)
    return seen, images


def grey(processor, ids, images):
    return ids, [Image.new("RGB", image.size, "grey") for image in images]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    config = RunConfig(steps=1, prompts_per_step=4, num_generations=4)
    out = tmp_path_factory.mktemp("run")
    trainer = build_trainer(config, out, training_questions(config))
    trainer.current_gradient_accumulation_steps = 1
    trainer.use_vllm, trainer.vllm_mode, trainer._last_loaded_step = True, "server", -1
    return trainer


@pytest.fixture
def step(trainer, samples):
    def step(engine):
        torch.manual_seed(0)
        trainer.vllm_generation = engine
        trainer.model.train()
        rows = []
        for row in list(samples)[:4]:
            prompt = [{"role": "user", "content": row["question"]}]
            rows += [{**row, "prompt": prompt} for _ in range(4)]
        return trainer._generate_and_score_completions(rows)

    return step


def test_the_images_are_views_already(trainer, step):
    """So that an engine with another pixel budget, such as the checkpoint's, does not resize them."""

    class Look(Engine):
        def one(self, ids, images):
            assert {image.size for image in images} == {(96, 96)}
            return super().one(ids, images)

    step(Look(trainer))


def test_an_engine_that_expands_placeholders_sees_the_same_in_our_process(
    trainer, step, monkeypatch
):
    monkeypatch.setattr(trainer, "vllm_mode", "colocate")
    engine = Engine(trainer, as_vllm_does)
    step(engine)
    assert max(engine.prompts) >= 2
    figures = trainer._metrics["train"]["sampling/sampling_logp_difference/mean"]
    assert figures[-1] < MOST_LOGP_DIFFERENCE / 10
    monkeypatch.setattr(training, "one_placeholder", lambda ids, image: ids)  # stock TRL
    with pytest.raises(RolloutsDisagree, match=r"step 0: .* by \d\.\d\d on average.*TRL #6294"):
        step(engine)


@pytest.mark.parametrize("bf16", [False, True])
def test_an_engine_that_sees_the_same_is_trusted(trainer, step, bf16):
    engine = Engine(trainer, bf16=bf16)
    assert step(engine)["completion_ids"].shape[0] == 16
    assert max(engine.prompts) >= 2  # with a crop, too
    figures = trainer._metrics["train"]["sampling/sampling_logp_difference/mean"]
    assert figures[-1] < MOST_LOGP_DIFFERENCE / 10


@pytest.mark.parametrize("seen", [as_vllm_does, grey])
def test_an_engine_that_sees_something_else_stops_the_run(trainer, step, seen):
    with pytest.raises(RolloutsDisagree, match=r"step 0: .* by \d\.\d\d on average.*TRL #6294"):
        step(Engine(trainer, seen))


def test_an_engine_with_other_weights_stops_the_run(trainer, step):
    """The adapters that TRL was to hand over did not arrive."""

    class Stale(Engine):
        def one(self, *asked):
            with trainer.model.disable_adapter():
                return super().one(*asked)

    fresh = {n: p.clone() for n, p in trainer.model.state_dict().items()}
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    try:
        with pytest.raises(RolloutsDisagree):
            step(Stale(trainer))
        step(Engine(trainer))
    finally:
        trainer.model.load_state_dict(fresh)


@pytest.mark.parametrize(("name", "least", "most"), [("24GB", 0.42, 0.55), ("40GB", 0.5, 0.6)])
def test_vllm_gets_room_for_its_weights_and_one_group_of_rollouts(name, least, most, monkeypatch):
    """Of a card of the preset's name; TRL's own 0.3 of 24 GB is less than the weights."""
    config = preset(name, trl={"use_vllm": True})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            config_of(config.model), dtype=torch.bfloat16
        )
    images = ready(processor_of(config.model), config.max_pixels)
    card = SimpleNamespace(total=int(name.removesuffix("GB")) * 1e9)
    monkeypatch.setattr(training.psutil, "virtual_memory", lambda: card)
    monkeypatch.setattr(training, "device", lambda: torch.device("cpu"))
    length = completion_length(images, config.max_calls, config.max_new_tokens)
    settings = training.vllm_settings(config, model, images, length)
    assert least < settings["vllm_gpu_memory_utilization"] < most
    assert length + 576 < settings["vllm_max_model_length"] < length + 576 + 600
    assert training.vllm_settings(preset(name), model, images, length) == {}
    server = preset(name, trl={"use_vllm": True, "vllm_mode": "server"})
    assert training.vllm_settings(server, model, images, length) == {}
