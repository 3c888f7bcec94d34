"""fast.py: cached features are the computed ones, and a tower in training is left alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from deepeyes_lite.fast import LRU, _sums, cache_vision, vision_tower
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
        self.visual.patch_embed.register_forward_hook(self.count)
        if limit:
            cache_vision(self.model, limit)

    def count(self, module, args, output):
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
def test_cached_features_are_the_computed_ones(plain, cached, grad):
    with torch.set_grad_enabled(grad):
        for views in [(0, 1, 2), (2, 0), (3,), (3, 1, 4, 1), (0, 1, 2)]:
            assert_same(cached.see(*views), plain.see(*views))
        assert cached.computed == 5
        assert not any(features.requires_grad for features in cached.see(0, 1))
        pooled = cached.see(5, 5, 0)[0]
    assert cached.computed == 6  # an image that is in a batch many times is computed once
    assert torch.equal(pooled[:36], pooled[36:72])
    assert not torch.allclose(pooled[:36], pooled[72:], atol=1e-3)
    patches, _ = patchify(VIEWS[:1])
    for grid in [torch.tensor([[1, h, w]]) for h, w in ((12, 12), (6, 24), (24, 6))]:
        ours, theirs = cached.visual(patches, grid), plain.visual(patches, grid)
        assert torch.allclose(ours.pooler_output, theirs.pooler_output, atol=1e-5)


def test_the_model_gives_the_same_logits(plain, cached, samples):
    text = "<|vision_start|><|image_pad|><|vision_end|>What?"
    images = [row["image"] for row in samples]
    for batch in (images[:3], images[1:4], images[:3]):
        inputs = plain.processor(text=[text] * len(batch), images=batch, return_tensors="pt")
        with torch.no_grad():
            ours, theirs = cached.model(**inputs).logits, plain.model(**inputs).logits
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert cached.computed == 4


def test_the_cache_holds_the_images_last_seen(random_eyes, plain):
    cached = Counted(random_eyes, limit=2)
    for views, computed in [((0, 1, 0, 2), 3), ((0, 2), 3), ((1,), 4)]:  # 1 was longest not seen
        for view in views:
            cached.see(view)
        assert cached.computed == computed
    assert_same(cached.see(2, 3, 4, 5), plain.see(2, 3, 4, 5))  # more than it holds


def test_the_cache_is_bounded_in_bytes():
    cache, computed = LRU(10, 801), []

    def compute(rows):
        computed.append(len(rows))
        return [{"features": torch.zeros(100)} for _ in rows]  # 400 bytes

    for keys, new in [("a", 1), ("b", 1), ("ab", 0), ("c", 1), ("b", 0), ("c", 0), ("a", 1)]:
        computed.clear()  # three do not fit: for c, a goes
        assert len(cache.get([*keys], compute)) == len(keys) and sum(computed) == new
    assert len(cache.get([*"xyz"], compute)) == 3  # more than fit are answered all the same


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_tells_images_apart_by(dtype):
    patches = torch.randn(16, 1176, generator=torch.manual_seed(0)).to(dtype)
    swapped, turned, nearly = patches.clone(), patches.clone(), patches.clone()
    swapped[[3, 4]] = patches[[4, 3]]
    turned[5] = patches[5].roll(2)
    nearly[0, 0] *= 1 + torch.finfo(dtype).eps
    images = [patches, swapped, turned, nearly, -patches, patches[:15]]
    sums = [tuple(_sums(image).tolist()) for image in images]
    assert len({*sums}) == len({value for pair in sums for value in pair}) / 2 == 6
    assert _sums(patches.clone()).tolist() == [*sums[0]]


def test_the_tower_works_on_a_bounded_number_of_patches(cached, plain, monkeypatch):
    monkeypatch.setattr("deepeyes_lite.fast.VISION_PATCHES", 2 * 144 + 1)
    shapes = []
    cached.visual.patch_embed.register_forward_hook(lambda m, args, o: shapes.append(len(args[0])))
    assert_same(cached.see(0, 1, 2, 3, 4), plain.see(0, 1, 2, 3, 4))
    assert shapes == [288, 288, 144]


def test_a_tower_in_training_is_never_cached(cached, plain):
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


def test_caching_twice_is_harmless_and_adapters_are_seen_through(cached, plain):
    wrapped = get_peft_model(cached.model, LoraConfig(r=2, target_modules=LORA_TARGETS))
    assert vision_tower(wrapped) is cached.visual
    cache_vision(wrapped)
    assert_same(cached.see(0, 1), plain.see(0, 1))
    cached.see(0, 1)
    assert cached.computed == 2
