"""lessons.py: pretraining shows the very tokens of the loop."""

import random
import re

import pytest

from deepeyes_lite import prompts
from deepeyes_lite.policies import Policy
from deepeyes_lite.tinyworld.pretraining.lessons import (
    Images,
    draw,
    encode,
    long_sample,
    short_sample,
)


@pytest.fixture(scope="module")
def pretraining():
    """Samples of every kind, each with its scene."""
    samples, rng = [], random.Random(0)
    for index in range(12):
        scene, images = draw(index), Images()
        view = images.add(scene)
        samples += [(scene, short_sample(scene, view, images, rng, 0.3, 0.3)) for _ in range(3)]
        samples += [(scene, long_sample(scene, view, images, rng, 0.4, 0.4)) for _ in range(2)]
    return samples


def test_pretraining_shows_the_tokens_of_the_loop(pretraining, processor):
    for scene, sample in pretraining:
        first, *rest = [text for text, _ in sample.parts]
        question = re.search(r"<\|vision_end\|>(.*)<\|im_end\|>", first)[1]
        policy = Policy(processor, tools="Tools:" in first)
        turns = "".join(rest).split("\n<|im_start|>user\n")
        expected = policy.prompt_ids(question, scene.image)
        for number, turn in enumerate(turns):
            _, _, reply = turn.rpartition(prompts.GENERATION_PROMPT)
            if number:
                expected += policy.observation_ids([[{"type": "image", "image": scene.image}]])
            expected += policy.tokenizer(reply, add_special_tokens=False)["input_ids"]
        batch = encode([sample], processor.tokenizer)
        assert batch["input_ids"][0].tolist() == expected
        assert batch["attention_mask"].all()
        assert batch["images"].tolist() == sample.views
        for text, weight in sample.parts:  # only replies weigh in the loss
            assert weight == 0 if "<|im_start|>" in text else weight >= 0


def test_two_samples_in_a_batch_are_padded_on_the_right(pretraining, processor):
    samples = [sample for _, sample in pretraining[2:4]]  # a short and a long one
    batch = encode(samples, processor.tokenizer)
    width = batch["input_ids"].size(1)
    for row, sample in enumerate(samples):
        alone = encode([sample], processor.tokenizer)
        n = alone["input_ids"].size(1)
        assert batch["input_ids"][row, :n].tolist() == alone["input_ids"][0].tolist()
        assert batch["weights"][row, :n].tolist() == alone["weights"][0].tolist()
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (width - n)
        assert batch["weights"][row, n:].sum() == 0
