"""Models and processors by name, and where they run: device and precision are decided here alone.

A name is a folder, or one of the hub such as ``Qwen/Qwen2.5-VL-3B-Instruct``. tiny-eyes, Qwen2.5-VL and
Qwen3-VL come out as the same pair of model and processor, with the chat template, response template and
pixel budget of their family.
"""

import os
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)

from deepeyes_lite import doctor
from deepeyes_lite.models import offer, spec_of
from deepeyes_lite.tinyworld import model as tinyworld
from deepeyes_lite.tinyworld.model import RememberingImageProcessor

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class StillQwen2_5VLProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which needs torchvision (see `TinyEyesProcessor`)."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


class StillQwen3VLProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor without its video half."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


STILL = {"qwen2_5_vl": StillQwen2_5VLProcessor, "qwen3_vl": StillQwen3VLProcessor}


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
    remember: bool = True,
    extra_tool: str = "",
):
    """Load a model and its processor onto `device`.

    tiny-eyes is always loaded in fp32 (its checkpoint is that small).

    Args:
        name: a folder, or a name of the hub.
        quantise: the language model in 4 bits, for QLoRA; needs bitsandbytes.
        max_pixels: greatest area of a view; 0 for the family's.
        precision: "bf16" or "fp32"; None for what `doctor.precision` says of the machine.
        remember: whether the image processor remembers its images.
        extra_tool: what the model is offered beside the zoom, see `models.offer`.

    Raises:
        FileNotFoundError: if a folder holds no model.
        ImportError: if bitsandbytes is missing.
        ValueError: for a family that is not known, or a name that neither is here nor on the hub.
    """
    name = str(name)
    if _is_tiny(name):
        model, processor = tinyworld.load(name, remember)
        return model.to(device()), offer(processor, extra_tool)
    dtype = DTYPES[precision or doctor.precision()[0]]
    processor = offer(load_processor(name, max_pixels), extra_tool)
    # Cut up among processes, the weights are placed by accelerate.
    sharded = any(os.environ.get(f"ACCELERATE_USE_{n}") == "true" for n in ("FSDP", "DEEPSPEED"))
    place = {"device_map": {"": device().index}} if device().type == "cuda" and not sharded else {}
    if quantise:
        place["quantization_config"] = four_bits(dtype)
    model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **place)
    return model, processor


def load_processor(name: str | Path, max_pixels: int = 0):
    """The processor of a model of the hub or of a folder, made ready for its family.

    Args: see `load`.
    """
    try:
        config = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise ValueError(
            f"{name} is neither a folder with a model nor one of the hub that can be reached: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if config.model_type in STILL:
        tokenizer = AutoTokenizer.from_pretrained(name)
        images = RememberingImageProcessor.from_pretrained(name)
        processor = STILL[config.model_type](images, tokenizer, _template(name, tokenizer))
    else:
        processor = AutoProcessor.from_pretrained(name)
    return ready(processor, max_pixels)


def ready(processor, max_pixels: int = 0):
    """Give a processor the templates and the pixel budget of its family; returns it."""
    spec, images = spec_of(processor), processor.image_processor
    tokenizer = processor.tokenizer
    side = images.patch_size * images.merge_size
    if side != spec.factor:
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


def _template(name: str | Path, tokenizer) -> str | None:
    """The checkpoint's own chat template: with its processor's files, or with its tokenizer's."""
    from transformers import ProcessorMixin

    settings, _ = ProcessorMixin.get_processor_dict(name)
    return settings.get("chat_template") or tokenizer.chat_template


def _is_tiny(name: str | Path) -> bool:
    """Whether a name stands for tiny-eyes; a folder that is not there does, too, and is refused later."""
    path = Path(name)
    if not path.exists():  # "owner/model" of the hub has two parts
        return len(path.parts) != 2 or path.parts[0] in ("data", "runs", ".", "..")
    settings = path / "processor_config.json"
    return not (path / "config.json").exists() or (
        settings.exists() and "TinyEyesProcessor" in settings.read_text(encoding="utf-8")
    )
