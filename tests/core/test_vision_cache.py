"""vision_cache.py: remembered features are the computed ones, and a tower in training is left alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from deepeyes_lite.fast import LRU, cache_vision, vision_tower
from deepeyes_lite.models import LORA_TARGETS, load
from deepeyes_lite.tinyworld.model import patchify

VIEWS = torch.randint(0, 256, (6, 96, 96, 3), generator=torch.manual_seed(0)).byte().numpy()


class Counted:
    """A model whose tower counts the images that it computes."""

    def __init__(self, random_eyes, limit=2048):
        self.model, self.processor = load(random_eyes)
        self.model.requires_grad_(False)
        self.visual = vision_tower(self.model)
        self.computed = 0
        self.visual.patch_embed.register_forward_hook(self._count)
        if limit:
            cache_vision(self.model, limit)

    def _count(self, module, args, output):
        self.computed += len(args[0]) // 144

    def see(self, *views):
        """Features of these views: pooled, then every level of DeepStack."""
        output = self.visual(*patchify(VIEWS[list(views)]))
        return [output.pooler_output, *output.deepstack_features]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


@pytest.fixture(scope="module")
def plain(random_eyes):
    return Counted(random_eyes, limit=None)


@pytest.fixture
def cached(random_eyes):
    return Counted(random_eyes)


@pytest.mark.parametrize("grad", [True, False])
def test_remembered_features_are_the_computed_ones(plain, cached, grad):
    with torch.set_grad_enabled(grad):
        for views in [(0, 1, 2), (2, 0), (3,), (3, 1, 4, 1), (0, 1, 2)]:
            assert_same(cached.see(*views), plain.see(*views))
        assert cached.computed == 5
        assert not any(features.requires_grad for features in cached.see(0, 1))


def test_features_differ_between_images(cached):
    a, b = (cached.see(i)[0] for i in (0, 1))
    assert not torch.allclose(a, b, atol=1e-3)


def test_the_model_gives_the_same_logits(plain, cached, samples):
    text = "<|vision_start|><|image_pad|><|vision_end|>What?"
    images = [row["image"] for row in samples]
    for batch in (images[:3], images[1:4], images[:3]):
        inputs = plain.processor(text=[text] * len(batch), images=batch, return_tensors="pt")
        with torch.no_grad():
            assert torch.allclose(
                cached.model(**inputs).logits, plain.model(**inputs).logits, atol=1e-4
            )
    assert cached.computed == 4


def test_an_image_in_one_batch_many_times_is_computed_once(cached):
    pooled = cached.see(5, 5, 5)[0]
    assert cached.computed == 1
    assert torch.equal(pooled[:36], pooled[36:72]) and torch.equal(pooled[:36], pooled[72:])


def test_the_memory_holds_the_images_last_seen(random_eyes):
    cached = Counted(random_eyes, limit=2)
    for view in (0, 1, 0, 2):  # 1 is the one longest not seen
        cached.see(view)
    assert cached.computed == 3
    cached.see(0), cached.see(2)
    assert cached.computed == 3
    cached.see(1)
    assert cached.computed == 4


def test_the_memory_is_bounded_in_bytes():
    computed = []

    def see(*keys):
        def compute(rows):
            computed.extend(keys[i] for i in rows)
            return [{"features": torch.zeros(100)} for _ in rows]  # 400 bytes

        return cache.get([*keys], compute)

    cache = LRU(10, 801)
    see("a"), see("b"), see("a"), see("b")
    assert computed == ["a", "b"]
    see("c"), see("b"), see("c")  # a goes, for three do not fit
    assert computed == ["a", "b", "c"]
    see("a")
    assert computed == ["a", "b", "c", "a"]
    assert len(see("x", "y", "z")) == 3  # more than fit are answered all the same


def test_a_batch_larger_than_the_memory_is_answered(plain, random_eyes):
    cached = Counted(random_eyes, limit=2)
    assert_same(cached.see(0, 1, 2, 3), plain.see(0, 1, 2, 3))
    cached.see(0, 1)
    assert cached.computed == 6


def test_the_same_patches_in_another_shape_are_another_image(plain, cached):
    patches, _ = patchify(VIEWS[:1])
    shapes = [torch.tensor([[1, h, w]]) for h, w in ((12, 12), (6, 24), (24, 6))]
    for grid in shapes:
        ours, theirs = cached.visual(patches, grid), plain.visual(patches, grid)
        assert torch.allclose(ours.pooler_output, theirs.pooler_output, atol=1e-5)


def test_a_tower_in_training_is_never_cached(random_eyes, plain):
    cached = Counted(random_eyes)
    cached.see(0)
    cached.model.requires_grad_(True)
    cached.see(0)[0].sum().backward()
    assert cached.computed == 2
    weight = cached.visual.patch_embed.proj.weight
    assert weight.grad.abs().sum() > 0
    with torch.no_grad():
        weight.copy_(weight.flip(0))
        changed = cached.see(0)
    assert not torch.allclose(changed[0], plain.see(0)[0], atol=1e-3)


def test_caching_twice_is_harmless_and_adapters_are_seen_through(random_eyes, plain):
    cached = Counted(random_eyes)
    lora = LoraConfig(r=2, target_modules=LORA_TARGETS)
    wrapped = get_peft_model(cached.model, lora)
    assert vision_tower(wrapped) is cached.visual
    cache_vision(wrapped)
    assert_same(cached.see(0, 1), plain.see(0, 1))
    cached.see(0, 1)
    assert cached.computed == 2
