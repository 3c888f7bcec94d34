"""TRL's GRPOTrainer, made to stop where it would go on blind, and spared work that changes nothing.

What is spared leaves the gradient as it is, up to rounding:

- prompts: the rollouts of a group share theirs; it is rendered, and its image processed, once;
- generation: the adapters are merged into the weights meanwhile (a third of the multiplications less),
  if these are fp32: in bf16 the sum would be rounded, and a quantised layer cannot take it;
- update: an episode with advantage 0 (its whole group got one reward) has no gradient, so it is left out;
  short and long episodes are computed apart, so that no short one is padded to the longest.

The features of the frozen vision tower are spared in `vision_cache.py`. TRL itself spares the second
forward for old log-probabilities where ``num_iterations`` is 1. Where the weights are cut up among
processes (FSDP, DeepSpeed), all of them have to make the same passes, so only prompts are spared there.

What vLLM generates is held against transformers at every step (`RolloutsDisagree`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import xxhash
from accelerate.utils import DistributedType
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import nn
from transformers import (
    BatchFeature,
)
from transformers.image_utils import make_flat_list_of_images
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOTrainer
from trl.trainer.utils import split_pixel_values_by_grid, unsplit_pixel_values_by_grid

# Mean difference of a token's log-probability, vLLM against transformers. Engines that see the same differ by
# about 0.01 (TRL #4772); with placeholders doubled, or a grey image, by far more (tests/test_vllm.py).
MOST_LOGP_DIFFERENCE = 0.15


class ImagesDropped(RuntimeError):
    """Image tokens and image features are unequal; TRL would train on without images."""


class RolloutsDisagree(RuntimeError):
    """vLLM wrote what transformers finds unlikely: the two do not see the same prompt, or weights."""


class ZoomTrainer(GRPOTrainer):
    """GRPOTrainer for episodes with crops; see the module for what differs."""

    @property
    def sharded(self) -> bool:
        """Whether the weights are cut up among processes."""
        return self.accelerator.distributed_type in (
            DistributedType.FSDP,
            DistributedType.DEEPSPEED,
        )

    @property
    def _separable(self) -> bool:
        """Whether the loss is a sum over episodes in which one without advantage counts for nothing."""
        plain = self.beta == 0.0 and self.loss_type == "dapo" and self.top_entropy_quantile == 1.0
        extra = self._entropy_bonus_enabled or self.aux_loss_enabled
        return plain and not extra and not self.sharded

    def _tokenize_prompts(self, prompts):
        # The rollouts of a group share their prompt. TRL renders it, and processes its image, once per
        # rollout, and leaves arrays where it later splits tensors: with trl 1.16.0 a step in which
        # every call is refused (text, no crop) raises an AttributeError.
        group = self.num_generations if self.model.training else self.num_generations_eval
        names = self._batch_environments
        self._batch_environments = names[::group]
        try:
            ids, images, fields = super()._tokenize_prompts(prompts[::group])
        finally:
            self._batch_environments = names
        grids = torch.as_tensor(np.asarray(fields.pop("image_grid_thw")))
        pixels = torch.as_tensor(np.asarray(fields.pop("pixel_values")))
        pixels = torch.split(pixels, grids.prod(-1).tolist())
        fields = {name: _repeat(values, group) for name, values in fields.items()}
        fields["pixel_values"] = torch.cat(_repeat(pixels, group))
        fields["image_grid_thw"] = grids.repeat_interleave(group, dim=0)
        return _repeat(ids, group), _repeat(images, group), fields

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        # TRL looks for the mismatch only where a crop came back, and then drops the images.
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        tokens = int((ids == self.processing_class.image_token_id).sum())
        patches = int(output["image_grid_thw"].prod(-1).sum()) if "image_grid_thw" in output else 0
        if tokens != patches // self.processing_class.image_processor.merge_size**2:
            raise ImagesDropped(
                f"step {self.state.global_step}: image tokens and image features disagree, where TRL drops "
                "every image of the batch. Either the policy wrote an image placeholder (keep "
                "prompts.RESERVED_TOKENS in generation_kwargs['suppress_tokens']) or a crop was cut off "
                "(raise max_completion_length)."
            )
        if self.use_vllm:
            self._hold_against_transformers()
        return output

    def _hold_against_transformers(self) -> None:
        """Stop where the engines disagree. TRL measures it, and would only leave such episodes out."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        found = metrics["sampling/sampling_logp_difference/mean"][-1]
        if not found <= MOST_LOGP_DIFFERENCE:
            raise RolloutsDisagree(
                f"step {self.state.global_step}: log-probabilities of vLLM's tokens differ from "
                f"transformers' by {found:.2f} on average, more than {MOST_LOGP_DIFFERENCE}. vLLM sees "
                "another prompt (TRL #6294: placeholders of images expanded twice) or other weights. "
                "Train without use_vllm, or with a TRL and vLLM in which that is mended."
            )

    def _generate_single_turn(self, *args, **kwargs):
        # vLLM has weights of its own, into which TRL merges the adapters.
        apart = self.sharded or self.use_vllm
        with nullcontext() if apart else merged_adapters(self.model):
            return super()._generate_single_turn(*args, **kwargs)

    def _compute_loss(self, model, inputs):
        if not self._separable:
            return super()._compute_loss(model, inputs)
        # DAPO divides by the number of tokens of the whole batch, so parts of the loss simply add up.
        counts = torch.tensor(inputs["num_images"])
        live = inputs["advantages"].cpu() != 0
        parts = [torch.nonzero(live & (counts == n)).flatten().tolist() for n in counts.unique()]
        parts = [rows for rows in parts if rows] or [[0]]  # a loss of zero still needs a graph
        return sum(super(ZoomTrainer, self)._compute_loss(model, select(inputs, p)) for p in parts)


def select(inputs: dict, rows: list[int]) -> dict:
    """Some episodes of TRL's batch, without columns that are padding in all of them."""
    split = split_pixel_values_by_grid(inputs)
    batch = len(split["advantages"])
    some = {}
    for name, value in split.items():
        if isinstance(value, list) and len(value) == batch:
            some[name] = [value[i] for i in rows]
        elif isinstance(value, torch.Tensor) and value.ndim and len(value) == batch:
            some[name] = value[rows]
        else:
            some[name] = value
    whole = some["prompt_ids"].size(1)
    prompt = int(some["prompt_mask"].sum(1).max())
    completion = int(some["completion_mask"].sum(1).max())
    for name in ("prompt_ids", "prompt_mask"):
        some[name] = some[name][:, whole - prompt :]
    whole_completion = some["completion_ids"].size(1)
    for (
        name,
        value,
    ) in some.items():  # ids, masks, old log-probabilities: all (episodes, completion)
        as_wide = isinstance(value, torch.Tensor) and value.shape[1:] == (whole_completion,)
        if as_wide and not name.startswith("prompt"):
            some[name] = value[:, :completion]
    types = "mm_token_type_ids"
    some[types] = some[types][:, whole - prompt : whole + completion]
    return unsplit_pixel_values_by_grid(some)


@contextmanager
def merged_adapters(model: nn.Module):
    """Inside, the LoRA adapters are part of the weights; afterwards the weights are what they were.

    Unmerging subtracts what was added and leaves a rounding error, which would pile up over the steps
    of a run, so the weights are put back from a copy. Weights in another precision than fp32 stay apart
    from their adapters.
    """
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


def _repeat(values: Sequence, times: int) -> list:
    """Every value ``times`` times, one after the other."""
    return [value for value in values for _ in range(times)]


MAX_BYTES = 256_000_000  # of features; an image of tiny-eyes takes 55 kB, one of 1280 tokens 9 MB


def vision_tower(model: nn.Module) -> nn.Module:
    """The vision tower of a Qwen-VL model, with or without adapters around it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model.visual


def cache_vision(model: nn.Module, limit: int = 2048) -> None:
    """Let the model's vision tower remember its last images; calling it twice is harmless.

    Args:
        model: a Qwen-VL model, with or without adapters.
        limit: images kept, if ``MAX_BYTES`` holds as many. They lie where the model is.
    """
    visual = vision_tower(model)
    if "forward" in vars(visual):
        return
    compute = visual.forward
    store: OrderedDict[tuple, dict] = OrderedDict()

    def forward(hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs):
        if torch.is_grad_enabled() and any(p.requires_grad for p in visual.parameters()):
            store.clear()
            return compute(hidden_states, grid_thw, **kwargs)
        patches = grid_thw.prod(-1).tolist()
        images = torch.split(hidden_states, patches)
        where = (hidden_states.device, hidden_states.dtype)
        keys = [(*where, _digest(image), *grid.tolist()) for image, grid in zip(images, grid_thw)]
        missing = {key: i for i, key in enumerate(keys) if key not in store}
        if missing:
            rows = list(missing.values())
            with torch.no_grad():
                new = compute(torch.cat([images[i] for i in rows]), grid_thw[rows], **kwargs)
            tokens = [patches[i] // visual.spatial_merge_size**2 for i in rows]
            pooled = torch.split(new.pooler_output, tokens)
            deepstack = [torch.split(level, tokens) for level in _levels(new)]
            for n, key in enumerate(missing):
                # Copies, for a part of a batch would keep the whole batch in memory.
                store[key] = (pooled[n].clone(), [level[n].clone() for level in deepstack])
        found = [store[key] for key in keys]
        for key in keys:
            store.move_to_end(key)
        held = sum(map(_feature_bytes, store.values())) if missing else 0
        while len(store) > limit or held > MAX_BYTES:
            held -= _feature_bytes(store.popitem(last=False)[1])
        output = _Output(pooler_output=torch.cat([image for image, _ in found]))
        output.deepstack_features = [
            torch.cat(level) for level in zip(*(levels for _, levels in found))
        ]
        return output

    visual.forward = forward


class _Output:
    """As much of the tower's output as Qwen-VL models read."""

    def __init__(self, pooler_output: torch.Tensor):
        self.pooler_output = pooler_output
        self.deepstack_features: list[torch.Tensor] = []


def _feature_bytes(features: tuple[torch.Tensor, list[torch.Tensor]]) -> int:
    return sum(part.nbytes for part in (features[0], *features[1]))


def _levels(output) -> list[torch.Tensor]:
    return getattr(output, "deepstack_features", None) or []


def _digest(image: torch.Tensor) -> bytes:
    return xxhash.xxh3_128_digest(image.contiguous().view(torch.uint8).cpu().numpy())


class CachedImageProcessor(Qwen2VLImageProcessorPil):
    """Remembers the patches of its last images: a rollout processes the same scene many times."""

    LIMIT = 1024  # images; of tiny-eyes 221 kB each
    MAX_BYTES = 1_000_000_000  # a view of 1280 tokens of Qwen2.5-VL takes 24 MB

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._patches: OrderedDict[tuple, dict] = OrderedDict()

    def to_dict(self) -> dict:
        """The settings without the memory, for saving."""
        settings = super().to_dict()
        settings.pop("_patches", None)
        return settings

    def preprocess(self, images, return_tensors=None, **kwargs):
        images = make_flat_list_of_images(images)
        if kwargs or not all(isinstance(image, Image.Image) for image in images):
            return super().preprocess(images, return_tensors=return_tensors, **kwargs)
        keys = [(i.mode, i.size, xxhash.xxh3_128_digest(i.tobytes())) for i in images]
        for key, image in zip(keys, images):
            if key not in self._patches:
                self._patches[key] = super().preprocess([image], return_tensors="np").data
        found = [self._patches[key] for key in keys]
        for key in keys:
            self._patches.move_to_end(key)
        held = sum(_bytes(one) for one in self._patches.values())
        while len(self._patches) > self.LIMIT or held > self.MAX_BYTES:
            held -= _bytes(self._patches.popitem(last=False)[1])
        data = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
        return BatchFeature(data=data, tensor_type=return_tensors)


def _bytes(patches: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in patches.values())
