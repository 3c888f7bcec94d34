"""Features of a frozen vision tower, once per image.

LoRA leaves the vision tower as it is, so its features depend on the image alone. Stock training
computes them for every rollout, every turn and every pass; here the second look at an image is a
dictionary look-up. A tower that is being trained is never cached.
"""

from collections import OrderedDict

import torch
import xxhash
from torch import nn

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
        held = sum(map(_bytes, store.values())) if missing else 0
        while len(store) > limit or held > MAX_BYTES:
            held -= _bytes(store.popitem(last=False)[1])
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


def _bytes(features: tuple[torch.Tensor, list[torch.Tensor]]) -> int:
    return sum(part.nbytes for part in (features[0], *features[1]))


def _levels(output) -> list[torch.Tensor]:
    return getattr(output, "deepstack_features", None) or []


def _digest(image: torch.Tensor) -> bytes:
    return xxhash.xxh3_128_digest(image.contiguous().view(torch.uint8).cpu().numpy())
