"""DeepEyes' and verl's parquet, read and written.

Whoever outgrows one machine takes selected questions to the engines that train on many: DeepEyes' own
fork, verl, ms-swift. The columns are those of ``ChenShawn/DeepEyes-Datasets-47k`` and nothing else,
because verl concatenates training files and refuses other columns. Target boxes have no place in them.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, List, Value
from datasets import Image as ImageFeature
from transformers.utils import get_json_schema

from deepeyes_lite.files import atomic_write
from deepeyes_lite.prompts import markup_in
from deepeyes_lite.realworld.folder import BadRow, read_text
from deepeyes_lite.realworld.images import read_image
from deepeyes_lite.realworld.verl_reward import MATH, VISUAL, verifier_of
from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.verifiers import split_options

VERL_FEATURES = Features(
    {
        "data_source": Value("string"),
        "prompt": List({"content": Value("string"), "role": Value("string")}),
        "images": List({"bytes": Value("binary"), "path": Value("string")}),
        "ability": Value("string"),
        "env_name": Value("string"),
        "reward_model": {"ground_truth": Value("string"), "style": Value("string")},
        "extra_info": {
            "answer": Value("string"),
            "index": Value("string"),
            "question": Value("string"),
            "split": Value("string"),
        },
    }
)
TOOL_ENVIRONMENT = "visual_toolbox_v2"
USER_SUFFIX = (
    "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  "
    "<think>...</think>  <tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
)
MATH_SUFFIX = (
    "\nThink first, then put the final answer into \\boxed{}."  # where that reward looks for it
)


# --- in -----------------------------------------------------------------------------------------


def from_verl(name: int, row: dict) -> dict:
    """A row of DeepEyes' schema as a sample.

    ``kind`` is the row's ``data_source``. The verifier follows the row's reward: math_verify for
    ``thinklite_eureka``; else a letter where the question has options and the answer is one of them, a
    number where the answer is a number, and the same words otherwise (DeepEyes asks its judge there).

    Args:
        name: the row's number, for want of an index.
        row: its columns, the image as bytes.

    Raises:
        BadRow, BadImage: for what cannot be used.
    """
    extra, truth = row.get("extra_info") or {}, row.get("reward_model") or {}
    if not isinstance(extra, dict) or not isinstance(truth, dict):
        raise BadRow("extra_info and reward_model must be structs")
    kind = read_text(row, "data_source")
    question = _question(extra, row.get("prompt"))
    answer = read_text({"ground_truth": truth.get("ground_truth")}, "ground_truth")
    if token := markup_in(question):
        raise BadRow(f"the question contains {token}, which only the template may write")
    images = row.get("images")
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else 0
        raise BadRow(f"{count} images; a sample has exactly one")
    data = images[0].get("bytes") if isinstance(images[0], dict) else None
    if not isinstance(data, bytes) or not data:
        raise BadRow("the image is not in the file; bytes are missing")
    image, *_ = read_image(data, f"image of {kind}")
    index = read_text(extra, "index", default=str(name))
    options = split_options(question)[1]
    return {
        "id": f"{kind}-{index}",
        "image": {"bytes": image, "path": None},
        "question": question,
        "answer": answer,
        "boxes_px": [],
        "kind": kind,
        "legible": -1,
        "source": "DeepEyes-47k",
        "options": options,
        "verifier": verifier_of(kind, answer, options),
    }


def _question(extra: dict, prompt: object) -> str:
    """The bare question: from extra_info, or out of the prompt; without placeholder and suffix."""
    text = extra.get("question")
    if not text and isinstance(prompt, list):
        turns = [
            m.get("content") for m in prompt if isinstance(m, dict) and m.get("role") == "user"
        ]
        text = turns[-1] if turns else ""
    bare = str(text or "").replace("<image>", "").split(USER_SUFFIX[1:50])[0].split(MATH_SUFFIX)[0]
    return read_text({"question": bare}, "question")


# --- out ----------------------------------------------------------------------------------------


def to_verl(sample: dict) -> dict:
    """A sample as a row of DeepEyes' schema; the image as stored, ``{"bytes": …, "path": …}``.

    ``data_source`` decides which reward the public code takes. It is the sample's kind where that is one
    of the three; else ``thinklite_eureka`` for math and ``vstar`` for the rest.
    """
    kind = sample["kind"]
    if kind not in (*VISUAL, MATH):
        kind = MATH if sample["verifier"] == "math" else "vstar"
    tool = kind != MATH
    question = sample["question"]
    return {
        "data_source": kind,
        "prompt": [
            {"role": "system", "content": _system() if tool else "You are a helpful assistant."},
            {
                "role": "user",
                "content": f"<image>\n{question}{USER_SUFFIX if tool else MATH_SUFFIX}",
            },
        ],
        "images": [{"bytes": sample["image"]["bytes"], "path": None}],
        "ability": sample["kind"],
        "env_name": TOOL_ENVIRONMENT if tool else "",
        "reward_model": {"ground_truth": sample["answer"], "style": "model"},
        "extra_info": {
            "answer": sample["answer"],
            "index": sample["id"].removeprefix(f"{kind}-"),
            "question": question,
            "split": "train",
        },
    }


def export(dataset: Dataset, path: str | Path) -> int:
    """Write a dataset in our schema as one parquet file in DeepEyes' schema.

    Returns:
        How many rows were written.

    Raises:
        ValueError: if the path does not end in ``.parquet``.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise ValueError(f"the name must end in .parquet, got {path.name!r}")
    stored = dataset.cast_column("image", ImageFeature(decode=False))

    def rows() -> Iterable[dict]:
        for sample in stored:
            yield to_verl(sample)

    with atomic_write(path) as tmp:
        IterableDataset.from_generator(rows, features=VERL_FEATURES).to_parquet(
            str(tmp), batch_size=64
        )
    return len(dataset)


def _system() -> str:
    """System prompt with the tool, as Qwen2.5's own template writes one for text models.

    In pixels of the image, as DeepEyes' tool takes its boxes. Its own schema requires ``bbox``, which
    does not exist; this one requires ``bbox_2d``.
    """
    schema = get_json_schema(ZoomTool().image_zoom_in_tool)
    box = schema["function"]["parameters"]["properties"]["bbox_2d"]
    box["description"] = "[x1, y1, x2, y2] in pixels of the image."
    del schema["function"]["parameters"]["properties"]["image"]  # theirs crops the original only
    return (
        "You are a helpful assistant.\n\n# Tools\n\nYou may call one or more functions to assist with "
        "the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:"
        f"\n<tools>\n{json.dumps(schema)}\n</tools>\n\nFor each function call, return a json object "
        "with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )
