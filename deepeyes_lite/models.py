"""What differs from one family of models to the next, in one place: `ModelSpec`.

tiny-eyes, Qwen2.5-VL and Qwen3-VL run through the same rollout, environment and trainer; each of them
asks here for its frame, its template and its budgets. The weights are loaded in `loading.py`.

**Another model** whose chat template TRL accepts (it renders tool calls, and images in a tool's answer;
``trl.chat_template_utils.supports_tool_calling`` tells) takes an entry of its own::

    from dataclasses import replace
    from deepeyes_lite.models import QWEN3_VL, SPECS

    SPECS["MyVLProcessor"] = replace(QWEN3_VL, family="MyVL", factor=32)

The key is the name of its processor's class. Then ask what its boxes mean (``frame``), whether
``tokenizer.parse_response`` reads its calls (``response_template``), which of its linear layers are the
language model's (``lora_targets``), whether its image processor has ``size``, ``patch_size`` and
``merge_size``, of which the size of a view is made, and whether its vision tower is ``model.visual``
(`vision_cache.py`). Where torchvision is missing, its processor needs an entry in ``loading.STILL``, too.
``tests/test_families.py`` does all of it with Qwen2-VL.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil, floor

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box, Size, rescale, view_size
from deepeyes_lite.extra_tools import extra_tool, with_extra
from deepeyes_lite.tools import MAX_CALLS, MAX_CROP_SIDE, ViewZoomTool, ZoomTool

# Linear layers of the language model; the vision tower stays as it is.
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
OBSERVATION_TOKENS = 80  # around a crop: markup, and DeepEyes' reminder of the format (45)


@dataclass(frozen=True)
class ModelSpec:
    """One family.

    Attributes:
        family: its name.
        frame: of the boxes that it writes, "view" or "1000".
        factor: px of the view that a visual token covers in each direction.
        min_pixels: least area of a view; a smaller crop is enlarged to it.
        max_pixels: greatest area of a view.
        max_new_tokens: of a turn.
        max_completion_length: of an episode; 0: room for every turn and crop.
        batch_size: episodes that are rolled out side by side.
        chat_template: None for the checkpoint's own.
        response_template: how a reply is read back into a message.
        suffix: what follows the question, by whether the prompt offers the tool.
        lora_targets: the layers that are trained, a pattern of PEFT.
        reserved_tokens: what a policy must not write, as far as its tokenizer knows them.
    """

    family: str
    frame: str
    factor: int
    min_pixels: int
    max_pixels: int
    max_new_tokens: int
    max_completion_length: int = 0
    batch_size: int = 8
    chat_template: str | None = None
    response_template: dict = field(default_factory=lambda: prompts.RESPONSE_TEMPLATE)
    suffix: dict = field(
        default_factory=lambda: {True: prompts.FORMAT, False: prompts.FORMAT_WITHOUT_TOOL}
    )
    lora_targets: str = LORA_TARGETS
    reserved_tokens: tuple = prompts.RESERVED_TOKENS

    def __post_init__(self):
        if self.frame not in ("view", "1000"):
            raise ValueError(f"frame must be 'view' or '1000', got {self.frame!r}")


TINY_EYES = ModelSpec(
    family="tiny-eyes",
    frame="1000",
    factor=16,
    min_pixels=96 * 88,
    max_pixels=96 * 104,
    max_new_tokens=40,  # a zoom call takes 18
    max_completion_length=480,  # six calls with their crops take 400
    batch_size=64,
    chat_template=prompts.CHAT_TEMPLATE,
    suffix={True: "", False: ""},
)
QWEN2_5_VL = ModelSpec(
    family="Qwen2.5-VL",
    frame="view",
    factor=28,
    # The checkpoint's own least view has 4 tokens: a crop of 28 px would come back hardly enlarged.
    min_pixels=64 * 28 * 28,
    max_pixels=1280 * 28 * 28,
    max_new_tokens=512,
    chat_template=prompts.DEEPEYES_TEMPLATE,
)
QWEN3_VL = ModelSpec(
    family="Qwen3-VL",
    frame="1000",
    factor=32,
    min_pixels=64 * 32 * 32,  # the checkpoint's own
    max_pixels=1280 * 32 * 32,
    max_new_tokens=512,
)
# By the class of the processor, or of one that it is made of.
SPECS = {
    "TinyEyesProcessor": TINY_EYES,
    "Qwen2_5_VLProcessor": QWEN2_5_VL,
    "Qwen3VLProcessor": QWEN3_VL,
}


def spec_of(processor) -> ModelSpec:
    """The family of a processor.

    Raises:
        ValueError: naming the families there are.
    """
    for kind in type(processor).__mro__:
        if kind.__name__ in SPECS:
            return SPECS[kind.__name__]
    families = ", ".join(spec.family for spec in SPECS.values())
    raise ValueError(
        f"{type(processor).__name__} belongs to none of the families {families}; "
        "deepeyes_lite/models.py says how to add one"
    )


def view_of(processor) -> Callable[[Size], Size]:
    """The size of the view that a processor makes of an image of a size.

    It reads the processor's own settings, so that frame and view cannot fall apart.
    """
    images = processor.image_processor
    return partial(
        view_size,
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
        factor=images.patch_size * images.merge_size,
    )


def offer(processor, name: str):
    """Offer a second tool to the model of a processor, in whatever is made of it; returns the processor.

    Args:
        processor: of the model.
        name: a key of ``extra_tools.EXTRA_TOOLS``; "" for the zoom alone.

    Raises:
        ValueError: naming the tools there are.
    """
    if name:
        extra_tool(name)
        processor.extra_tool = name
    return processor


def tool_of(processor, kinds: tuple[type, type] = (ZoomTool, ViewZoomTool)) -> Callable:
    """What makes the tool of an episode, in the frame of the processor's family.

    Args:
        processor: of the model.
        kinds: the class for ``box_1000``, the class for ``box_view``.
    """
    if name := getattr(processor, "extra_tool", ""):
        kinds = tuple(with_extra(kind, extra_tool(name)) for kind in kinds)
    relative, absolute = kinds
    if spec_of(processor).frame == "1000":
        return relative
    return partial(absolute, view=view_of(processor))


def spoken(processor, box_px: Box, size: Size) -> list[int]:
    """A box as the family writes it, in whole numbers around it.

    Args:
        processor: of the model.
        box_px: in pixels of the original.
        size: of the original.
    """
    if spec_of(processor).frame == "1000":
        frame, step = (1000, 1000), 10  # the only steps that tiny-eyes speaks
    else:
        frame, step = view_of(processor)(size), 1
    x1, y1, x2, y2 = (value / step for value in rescale(tuple(box_px), size, frame))
    return [step * value for value in (floor(x1), floor(y1), ceil(x2), ceil(y2))]


def completion_length(processor, max_calls: int = MAX_CALLS, max_new_tokens: int = 0) -> int:
    """Tokens after the prompt that leave room for every turn and every crop of an episode.

    TRL counts crops in ``max_completion_length``, drops an answer of the tool that does not fit, and
    ends the episode there with the full penalty.

    Args:
        processor: of the model, with the pixel budget of the run.
        max_calls: in an episode.
        max_new_tokens: of a turn; 0 for the family's.
    """
    spec, images = spec_of(processor), processor.image_processor
    if spec.max_completion_length:
        return spec.max_completion_length
    side = images.patch_size * images.merge_size
    pixels = max(min(images.size["longest_edge"], MAX_CROP_SIDE**2), images.size["shortest_edge"])
    crop = ceil(pixels / side**2) + OBSERVATION_TOKENS
    return (max_calls + 1) * (max_new_tokens or spec.max_new_tokens) + max_calls * crop


def token_ids(tokenizer, tokens) -> list[int]:
    """Ids of those tokens that the tokenizer has; the others are plain text to it and stay so."""
    known = tokenizer.get_vocab()
    return [known[token] for token in tokens if token in known]
