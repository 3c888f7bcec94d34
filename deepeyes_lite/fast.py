"""Work that is spared; read last, for nothing in here changes a result.

What is spared leaves the gradient as it is, up to rounding:

- prompts: the rollouts of a group share theirs; it is rendered, and its image processed, once;
- images: patches of an image, and features of the frozen vision tower, are computed once per image;
- generation: the adapters are merged into the weights meanwhile (a third of the multiplications less),
  if these are fp32: in bf16 the sum would be rounded, and a quantised layer cannot take it;
- update: an episode with advantage 0 (its whole group got one reward) has no gradient, so it is left out;
  short and long episodes are computed apart, so that no short one is padded to the longest.

TRL itself spares the second forward for old log-probabilities where ``num_iterations`` is 1. Several
processes have to make the same passes, for TRL gathers metrics in each: their update is TRL's. Where the
weights are cut up among them (FSDP, DeepSpeed), only prompts are spared.

TRL and PEFT are imported where they are needed: a rollout without training starts in half the time.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import xxhash
from PIL import Image
from torch import nn
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import ModelOutput


class FastSteps:
    """What `training.ZoomTrainer` does faster than the ``GRPOTrainer`` it is mixed with."""

    @property
    def sharded(self) -> bool:
        """Whether the weights are cut up among processes."""
        from accelerate.utils import DistributedType

        cut_up = (DistributedType.FSDP, DistributedType.DEEPSPEED)
        return self.accelerator.distributed_type in cut_up

    @property
    def _separable(self) -> bool:
        """Whether the loss is a sum over episodes in which one without advantage counts for nothing."""
        plain = self.beta == 0.0 and self.loss_type == "dapo" and self.top_entropy_quantile == 1.0
        extra = self._entropy_bonus_enabled or self.aux_loss_enabled
        # TRL gathers metrics in every call, so processes must not differ in the number of their parts.
        return plain and not extra and self.accelerator.num_processes == 1

    def _tokenize_prompts(self, prompts):
        # The rollouts of a group share their prompt. TRL renders it, and processes its image, once per
        # rollout, and leaves arrays where it later splits tensors: with trl 1.16.0 a step in which
        # every call is refused (text, no crop) raises an AttributeError.
        group = self.num_generations if self.model.training else self.num_generations_eval
        names = self._batch_environments
        self._batch_environments = names[::group]
        try:
            ids, images, fields = super()._tokenize_prompts(prompts[::group])  # a prompt a group
        finally:
            self._batch_environments = names
        grids = torch.as_tensor(np.asarray(fields.pop("image_grid_thw")))  # (groups, 3)
        pixels = torch.as_tensor(np.asarray(fields.pop("pixel_values")))  # (all patches, values)
        pixels = torch.split(pixels, grids.prod(-1).tolist())  # a tensor (patches, values) a group
        fields = {name: _repeat(values, group) for name, values in fields.items()}
        fields["pixel_values"] = torch.cat(_repeat(pixels, group))
        fields["image_grid_thw"] = grids.repeat_interleave(group, dim=0)  # (rollouts, 3)
        return _repeat(ids, group), _repeat(images, group), fields

    def _generate_single_turn(self, *args, **kwargs):
        # vLLM has weights of its own, into which TRL merges the adapters.
        apart = self.sharded or self.use_vllm
        with nullcontext() if apart else merged_adapters(self.model):
            return super()._generate_single_turn(*args, **kwargs)

    def _compute_loss(self, model, inputs):
        compute_loss = super()._compute_loss
        if not self._separable:
            return compute_loss(model, inputs)
        # DAPO divides by the number of tokens of the whole batch, so parts of the loss simply add up.
        counts = torch.tensor(inputs["num_images"])  # (B,)
        live = inputs["advantages"].cpu() != 0  # (B,)
        parts = [torch.nonzero(live & (counts == n)).flatten().tolist() for n in counts.unique()]
        parts = [rows for rows in parts if rows] or [[0]]  # a loss of zero still needs a graph
        return sum(compute_loss(model, select(inputs, rows)) for rows in parts)


def _repeat(values: Sequence, times: int) -> list:
    """Every value ``times`` times, one after the other."""
    return [value for value in values for _ in range(times)]


def select(inputs: dict, rows: list[int]) -> dict:
    """Some episodes of TRL's batch, without columns that are padding in all of them.

    Args:
        inputs: TRL's batch of B episodes: prompts (B, P) padded on the left, completions (B, C) padded on
            the right.
        rows: indices of the episodes to keep.
    """
    from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

    split = split_pixel_values_by_grid(inputs)
    batch = len(split["advantages"])
    chosen = {}
    for name, value in split.items():
        if isinstance(value, list) and len(value) == batch:
            chosen[name] = [value[i] for i in rows]
        elif isinstance(value, torch.Tensor) and value.ndim and len(value) == batch:
            chosen[name] = value[rows]
        else:
            chosen[name] = value
    all_prompt, all_completion = chosen["prompt_ids"].size(1), chosen["completion_ids"].size(1)
    prompt = int(chosen["prompt_mask"].sum(1).max())  # the longest prompt left, in tokens
    completion = int(chosen["completion_mask"].sum(1).max())
    for name, value in chosen.items():
        if name in ("prompt_ids", "prompt_mask"):
            chosen[name] = value[:, all_prompt - prompt :]  # (b, prompt), left-padded
        elif isinstance(value, torch.Tensor) and value.shape[1:] == (all_completion,):
            chosen[name] = value[
                :, :completion
            ]  # ids, masks, old log-probabilities: (b, completion)
    types = split["mm_token_type_ids"][rows]  # (b, P + C)
    chosen["mm_token_type_ids"] = types[:, all_prompt - prompt : all_prompt + completion]
    return unsplit_pixel_values_by_grid(chosen)


@contextmanager
def merged_adapters(model: nn.Module):
    """Inside, the LoRA adapters are part of the weights; afterwards the weights are what they were.

    Unmerging subtracts what was added and leaves a rounding error, which would pile up over the steps
    of a run, so the weights are put back from a copy. Weights in another precision than fp32 stay apart
    from their adapters.
    """
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    layers = [m for m in layers if m.get_base_layer().weight.dtype == torch.float32]
    weights = [layer.get_base_layer().weight for layer in layers]
    with torch.no_grad():
        kept = [weight.clone() for weight in weights]
        for layer in layers:
            layer.merge()
    try:
        yield
    finally:
        with torch.no_grad():
            for layer, weight, copy in zip(layers, weights, kept):
                layer.unmerge()
                weight.copy_(copy)


# --- once per image -----------------------------------------------------------------------------


class LRU:
    """The last results for images, bounded by their number and their bytes.

    Attributes:
        max_items: results kept, if ``max_bytes`` holds as many.
        max_bytes: of all results together.
    """

    def __init__(self, max_items: int, max_bytes: int):
        self.max_items, self.max_bytes = max_items, max_bytes
        self._kept: OrderedDict[tuple, dict] = OrderedDict()

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def get(self, keys: list[tuple], compute: Callable[[list[int]], list[dict]]) -> list[dict]:
        """The results of these keys, computed where they are missing.

        Args:
            keys: of the images; equal images have equal keys.
            compute: gives the results for some indices of ``keys``, each a dict of arrays or tensors.
        """
        missing = {key: i for i, key in enumerate(keys) if key not in self._kept}
        if missing:
            self._kept |= zip(missing, compute(list(missing.values())), strict=True)
        results = [self._kept[key] for key in keys]
        for key in keys:
            self._kept.move_to_end(key)
        held = sum(map(_bytes, self._kept.values())) if missing else 0
        while len(self._kept) > self.max_items or held > self.max_bytes:
            held -= _bytes(self._kept.popitem(last=False)[1])
        return results


def _bytes(result: dict) -> int:
    return sum(array.nbytes for array in result.values())


class CachedImageProcessor(Qwen2VLImageProcessorPil):
    """Keeps the patches of its last images: a rollout processes the same scene many times."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Of tiny-eyes an image takes 221 kB, a view of 1280 tokens of Qwen2.5-VL 24 MB.
        self._patches = LRU(1024, 4_000_000_000)

    def to_dict(self) -> dict:
        """The settings for saving: without the cache, under the name that transformers has for them."""
        settings = super().to_dict() | {"image_processor_type": "Qwen2VLImageProcessor"}
        settings.pop("_patches", None)
        return settings

    def preprocess(self, images, return_tensors=None, **kwargs):
        images = make_flat_list_of_images(images)
        if kwargs or not all(isinstance(image, Image.Image) for image in images):
            return super().preprocess(images, return_tensors=return_tensors, **kwargs)
        preprocess = super().preprocess
        keys = [(i.mode, i.size, xxhash.xxh3_128_digest(i.tobytes())) for i in images]
        results = self._patches.get(
            keys, lambda rows: [preprocess([images[i]], return_tensors="np").data for i in rows]
        )
        data = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
        return BatchFeature(data=data, tensor_type=return_tensors)


def vision_tower(model: nn.Module) -> nn.Module:
    """The vision tower of a Qwen-VL model, with or without adapters around it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model.visual


VISION_BYTES = 256_000_000  # of features that are kept, where the model is
VISION_PATCHES = 16_384  # that the tower works on at a time


def cache_vision(model: nn.Module, limit: int = 2048) -> None:
    """Let a frozen vision tower compute its features once per image; calling this twice is harmless.

    LoRA leaves the vision tower as it is, so its features depend on the image alone. Stock training
    computes them for every rollout, every turn and every pass. A tower in training is never cached.

    Args:
        model: a Qwen-VL model, with or without adapters.
        limit: images kept, at most ``VISION_BYTES`` of features. They lie where the model is; of tiny-eyes
            an image takes 55 kB, one of 1280 tokens 9 MB.
    """
    visual = vision_tower(model)
    if "forward" in vars(visual):
        return
    compute, cache = visual.forward, LRU(limit, VISION_BYTES)

    def forward(hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs):
        if torch.is_grad_enabled() and any(p.requires_grad for p in visual.parameters()):
            cache.clear()
            return compute(hidden_states, grid_thw, **kwargs)
        patches = grid_thw.prod(-1).tolist()
        images = torch.split(hidden_states, patches)  # a tensor (patches, values) an image
        where = (hidden_states.device, hidden_states.dtype)
        keys = [(*where, *d, *grid) for d, grid in zip(_digests(images), grid_thw.tolist())]
        at_once = max(1, VISION_PATCHES // max(patches))

        def features(rows: list[int]) -> list[dict]:
            return [f for i in range(0, len(rows), at_once) for f in new(rows[i : i + at_once])]

        def new(rows: list[int]) -> list[dict]:
            with torch.no_grad():
                output = compute(torch.cat([images[i] for i in rows]), grid_thw[rows], **kwargs)
            tokens = [patches[i] // visual.spatial_merge_size**2 for i in rows]
            levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or [])]
            split = [torch.split(level, tokens) for level in levels]  # (tokens, hidden) an image
            # Copies, for a part of a batch would keep the whole batch in memory.
            return [
                {n: level[i].clone() for n, level in enumerate(split)} for i in range(len(rows))
            ]

        results = cache.get(keys, features)
        levels = [torch.cat([result[n] for result in results]) for n in results[0]]
        return _Output(pooler_output=levels[0], deepstack_features=levels[1:] or None)

    visual.forward = forward


@dataclass
class _Output(ModelOutput):
    """As much of the tower's output as Qwen-VL models read."""

    pooler_output: torch.Tensor | None = None  # (all visual tokens, hidden)
    deepstack_features: list[torch.Tensor] | None = None


def _digests(images: Sequence[torch.Tensor]) -> list[tuple]:
    """What tells images apart. Of those on a GPU, which would wait for a copy of all, 16 bytes come over."""
    if images[0].device.type == "cpu":
        return [(xxhash.xxh3_128_digest(_bits(image).numpy()),) for image in images]
    return [tuple(sums) for sums in torch.stack([_sums(image) for image in images]).tolist()]


def _bits(image: torch.Tensor) -> torch.Tensor:
    return image.contiguous().view(torch.int32)  # (patches, values), or half of them in bf16


def _sums(image: torch.Tensor) -> torch.Tensor:
    """Two sums over the bits of an image, (2,): random factors along and across patches, modulo 2**64."""
    bits = _bits(image)
    along, across = (_factors(length, bits.device) for length in (bits.size(1), bits.size(0)))
    patches = torch.stack([(bits * factors).sum(1) for factors in along])  # (2, patches)
    return (patches * across).sum(1)


@lru_cache(maxsize=256)
def _factors(length: int, device: torch.device) -> torch.Tensor:
    random = torch.Generator().manual_seed(length)
    return torch.randint(-(2**63), 2**63 - 1, (2, length), generator=random).to(device)
