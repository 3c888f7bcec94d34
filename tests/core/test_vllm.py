"""ZoomTrainer: what vLLM generates is held against transformers, through the hook by which TRL calls it.

vLLM needs a GPU. Here transformers stands in for it, in the place and with the answer that TRL expects,
and sees what it is given, or something else.
"""

import pytest
import torch
from PIL import Image

from deepeyes_lite.models import token_ids
from deepeyes_lite.prompts import RESERVED_TOKENS
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import MOST_LOGP_DIFFERENCE, RolloutsDisagree, RunConfig, build_trainer

pytestmark = pytest.mark.train


class Engine:
    """In the place of ``trl.generation.VLLMGeneration``."""

    def __init__(self, trainer, seen=lambda processor, ids, images: (ids, images), bf16=False):
        self.trainer, self.seen, self.bf16, self.prompts = trainer, seen, bf16, []

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


def expanded_twice(processor, ids, images):
    """Every placeholder becomes as many as its image has: features for the first ones, none for the rest."""
    pad, pads, seen = processor.image_token_id, 0, []
    for i, follows in zip(ids, [*ids[1:], None]):
        seen.append(i)
        pads += i == pad
        if i == pad and follows != pad:
            seen += [processor.tokenizer.pad_token_id] * (pads - 1)
            pads = 0
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


@pytest.mark.parametrize("bf16", [False, True])
def test_an_engine_that_sees_the_same_is_trusted(trainer, step, bf16):
    engine = Engine(trainer, bf16=bf16)
    assert step(engine)["completion_ids"].shape[0] == 16
    assert max(engine.prompts) >= 2  # with a crop, too
    figures = trainer._metrics["train"]["sampling/sampling_logp_difference/mean"]
    assert figures[-1] < MOST_LOGP_DIFFERENCE / 10


@pytest.mark.parametrize("seen", [expanded_twice, grey])
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
