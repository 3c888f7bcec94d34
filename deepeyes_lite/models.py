"""What differs from one family of models to the next, in one place: `ModelSpec`; and how a model is loaded.

tiny-eyes, Qwen2.5-VL and Qwen3-VL run through the same rollout, environment and trainer; each of them
asks here for its frame, its template and its budgets.

**Another model** whose chat template TRL accepts (it renders tool calls, and images in a tool's answer;
``trl.chat_template_utils.supports_tool_calling`` tells) takes an entry of its own::

    from dataclasses import replace
    from deepeyes_lite.models import QWEN3_VL, SPECS

    SPECS["MyVLProcessor"] = replace(QWEN3_VL, family="MyVL", factor=32)

The key is the name of its processor's class. Then ask what its boxes mean (``frame``), whether
`prompts.read_reply` reads its calls, which of its linear layers are the language model's
(``lora_targets``), whether its image processor has ``size``, ``patch_size`` and ``merge_size``, of which
the size of a view is made, and whether its vision tower is ``model.visual`` (`fast.py`). Where
torchvision is missing, its processor needs an entry in ``IMAGE_ONLY``, too.
``tests/core/test_families.py`` does all of it with Qwen2-VL.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil, floor
from pathlib import Path
from pkgutil import resolve_name

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from deepeyes_lite import DATA, doctor, prompts
from deepeyes_lite.boxes import Box, Size, View, rescale
from deepeyes_lite.fast import CachedImageProcessor
from deepeyes_lite.tools import MAX_CALLS, ViewZoomTool, ZoomTool

# Linear layers of the language model; the vision tower stays as it is.
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
PROMPT_TEXT = 500  # tokens of system prompt, schema and question
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
        response_template: how other programs, such as ``transformers serve``, read a reply.
        suffix: what follows the question, by whether the prompt offers the tool.
        lora_targets: the layers that are trained, a pattern of PEFT.
        reserved_tokens: what a policy must not write, as far as its tokenizer knows them.
        precision: "bf16" or "fp32"; "" for what the machine is best at.
        box_step: the boxes that it writes are multiples of this.
        square: it has only seen square views, so crops are squares, whatever the box.
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
    precision: str = ""
    box_step: int = 1
    square: bool = False

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
    precision="fp32",  # weights that small are not worth rounding
    box_step=10,
    square=True,
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
# By the class of the processor, or of one that it is made of. tiny-eyes has Qwen3-VL's, see `spec_of`.
SPECS = {
    "tiny-eyes": TINY_EYES,
    "Qwen2_5_VLProcessor": QWEN2_5_VL,
    "Qwen3VLProcessor": QWEN3_VL,
}


def spec_of(processor) -> ModelSpec:
    """The family of a processor.

    Raises:
        ValueError: naming the families there are.
    """
    for kind in type(processor).__mro__:
        if spec := SPECS.get(kind.__name__):
            small = spec is QWEN3_VL and visual_token(processor) == TINY_EYES.factor
            return TINY_EYES if small else spec
    families = ", ".join(spec.family for spec in SPECS.values())
    raise ValueError(
        f"{type(processor).__name__} belongs to none of the families {families}; "
        "deepeyes_lite/models.py says how to add one"
    )


def visual_token(processor) -> int:
    """The px of the view that a visual token covers in each direction."""
    return processor.image_processor.patch_size * processor.image_processor.merge_size


def view_of(processor) -> View:
    """The size of the view that a processor makes of an image of a size.

    It reads the processor's own settings, so that frame and view cannot fall apart.
    """
    images = processor.image_processor
    return View(
        min_pixels=images.size["shortest_edge"],
        max_pixels=images.size["longest_edge"],
        factor=visual_token(processor),
    )


def tool_of(processor, environment: type[ZoomTool] | None = None) -> Callable[..., ZoomTool]:
    """What makes the tool of an episode, in the frame of the processor's family, its crops for its view.

    Args:
        processor: of the model.
        environment: a class with tools of one's own, a subclass of the family's; None for the zoom alone.

    Raises:
        ValueError: for a class in another frame than the family's.
    """
    spec = spec_of(processor)
    family = ZoomTool if spec.frame == "1000" else ViewZoomTool
    kind = environment or family
    if issubclass(kind, ViewZoomTool) != (family is ViewZoomTool):
        raise ValueError(
            f"{kind.__name__} is not for {spec.family}: make it a subclass of {family.__name__}"
        )
    return kind if spec.square else partial(kind, view=view_of(processor))


def environment_named(path: str) -> type[ZoomTool] | None:
    """The environment class of that dotted path, such as "my_package.tools.MyTool"; None for "".

    Raises:
        ValueError: if there is no such class, or it is none of an environment.
    """
    if not path:
        return None
    try:
        kind = resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no environment {path!r}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, ZoomTool)):
        raise ValueError(f"{path!r} is no subclass of deepeyes_lite.tools.ZoomTool")
    return kind


def frame_of(processor, size: Size) -> Size:
    """Width and height of the frame in which the family writes boxes on an image of a size."""
    return (1000, 1000) if spec_of(processor).frame == "1000" else view_of(processor)(size)


def encode_box(processor, box_px: Box, size: Size) -> list[int]:
    """A box as the family writes it, in whole numbers around it.

    Args:
        processor: of the model.
        box_px: in pixels of the original.
        size: (width, height) of the original.
    """
    step, frame = spec_of(processor).box_step, frame_of(processor, size)
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
    crop = ceil(images.size["longest_edge"] / visual_token(processor) ** 2) + OBSERVATION_TOKENS
    return (max_calls + 1) * (max_new_tokens or spec.max_new_tokens) + max_calls * crop


def token_ids(tokenizer, tokens) -> list[int]:
    """Ids of those tokens that the tokenizer has; the others are plain text to it and stay so."""
    known = tokenizer.get_vocab()
    return [known[token] for token in tokens if token in known]


DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def image_only(kind: type, video: str = "Qwen2VLVideoProcessor") -> type:
    """A Qwen-VL processor class without its video half, which needs torchvision.

    ProcessorMixin takes its attributes from the signature, so it is enough to leave
    ``video_processor`` out of it. What is saved has a video half, and stock names, for other programs:
    `AutoProcessor` without them makes a tokenizer of it, and a server then answers blindly.

    Args:
        kind: the class.
        video: the class of its video half.
    """

    class ImageOnly(kind):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
            super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)

        def to_dict(self) -> dict:
            """The settings, for saving."""
            settings = super().to_dict()
            frames = {**settings["image_processor"], "video_processor_type": video}
            del frames["image_processor_type"]
            return settings | {"video_processor": frames}

    ImageOnly.__name__ = kind.__name__  # what a saved processor is called in its settings
    return ImageOnly


# By the model type of a checkpoint's configuration.
IMAGE_ONLY = {
    "qwen2_5_vl": image_only(Qwen2_5_VLProcessor),
    "qwen3_vl": image_only(Qwen3VLProcessor, "Qwen3VLVideoProcessor"),
}


def device() -> torch.device:
    """Where models run: this process's GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def load(
    name: str | Path,
    quantise: bool = False,
    max_pixels: int = 0,
    precision: str | None = None,
    cache: bool = True,
):
    """Load a model and its processor onto `device`.

    Args:
        name: a folder, a folder of ``DATA`` such as "tiny-eyes", or a name of the hub.
        quantise: the language model in 4 bits, for QLoRA; needs bitsandbytes.
        max_pixels: greatest area of a view; 0 for the family's.
        precision: "bf16" or "fp32"; None for the family's, or what `doctor.precision` says of the machine.
        cache: whether the image processor keeps the patches of its last images.

    Raises:
        ImportError: if bitsandbytes is missing.
        ValueError: for a family that is not known, or a name that neither is here nor on the hub.
    """
    name = find(name)
    processor = load_processor(name, max_pixels, cache)
    dtype = DTYPES[precision or spec_of(processor).precision or doctor.precision()[0]]
    # Cut up among processes, the weights are placed by accelerate.
    sharded = any(os.environ.get(f"ACCELERATE_USE_{n}") == "true" for n in ("FSDP", "DEEPSPEED"))
    place = {"device_map": {"": device().index}} if device().type == "cuda" and not sharded else {}
    if quantise:
        place["quantization_config"] = four_bits(dtype)
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **place)
    return model, processor


def find(name: str | Path) -> str:
    """Where a model is: the folder of that name, here or in ``DATA``; or the name, for the hub.

    >>> Path(find("tiny-eyes")).name, find("Qwen/Qwen3-VL-2B-Instruct")
    ('tiny-eyes', 'Qwen/Qwen3-VL-2B-Instruct')
    """
    shipped = DATA / name
    return str(shipped if not Path(name).exists() and shipped.is_dir() else name)


def load_processor(name: str | Path, max_pixels: int = 0, cache: bool = True):
    """The processor of a model of the hub or of a folder, made ready for its family.

    Args:
        name: as for `load`.
        max_pixels: greatest area of a view; 0 for the family's.
        cache: whether the image processor keeps the patches of its last images.
    """
    name = find(name)
    try:
        model_type = AutoConfig.from_pretrained(name).model_type
        settings, _ = ProcessorMixin.get_processor_dict(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} is neither a folder with a model nor one of the hub that can be reached: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if kind := IMAGE_ONLY.get(model_type):
        images = CachedImageProcessor if cache else Qwen2VLImageProcessorPil
        tokenizer = AutoTokenizer.from_pretrained(name)
        # The checkpoint's own template lies with its processor's files, or with its tokenizer's.
        template = settings.get("chat_template") or tokenizer.chat_template
        processor = kind(images.from_pretrained(name), tokenizer, template)
    else:
        try:
            processor = AutoProcessor.from_pretrained(name)
        except (ImportError, ValueError) as error:
            if "torchvision" not in str(error).lower():
                raise
            raise ImportError(
                f"the processor of {name} needs torchvision: `pip install -e .[serve]`"
            ) from error
    return ready(processor, max_pixels)


def ready(processor, max_pixels: int = 0):
    """Give a processor the templates and the pixel budget of its family; returns it."""
    spec, images = spec_of(processor), processor.image_processor
    tokenizer = processor.tokenizer
    if (side := visual_token(processor)) != spec.factor:
        raise ValueError(f"a visual token covers {side} px, in {spec.family} it is {spec.factor}")
    greatest = max_pixels or spec.max_pixels
    if greatest < spec.min_pixels:
        raise ValueError(f"max_pixels is {greatest}, and the least view has {spec.min_pixels}")
    images.size = {"shortest_edge": spec.min_pixels, "longest_edge": greatest}
    tokenizer.padding_side = "left"
    tokenizer.response_template = spec.response_template
    if spec.chat_template:
        processor.chat_template = spec.chat_template
    return processor


def four_bits(dtype: torch.dtype) -> BitsAndBytesConfig:
    """QLoRA's settings: the language model in NF4, vision tower and output layer as they are."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "QLoRA needs bitsandbytes: `pip install -e .[gpu]`, or choose a preset without it"
        ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["model.visual", "visual", "lm_head"],
    )
