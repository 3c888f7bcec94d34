"""DeepEyes' and verl's parquet, read and written.

Whoever outgrows one machine takes selected questions to the engines that train on many: DeepEyes' own
fork, verl, ms-swift. The columns are those of ``ChenShawn/DeepEyes-Datasets-47k`` and nothing else,
because verl concatenates training files and refuses other columns. Target boxes have no place in them.
"""

from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, List, Value
from datasets import Image as ImageFeature

from deepeyes_lite.files import atomic_write
from deepeyes_lite.options import split_options
from deepeyes_lite.prompts import FORMAT
from deepeyes_lite.realworld.folder import BadRow, new_sample, read_image, read_text
from deepeyes_lite.realworld.served import deepeyes_system
from deepeyes_lite.realworld.verl_reward import MATH, VISUAL, verifier_of

VERL_FEATURES = Features(
    {
        "data_source": Value("string"),
        "prompt": List({"content": Value("string"), "role": Value("string")}),
        "images": List({"bytes": Value("binary"), "path": Value("string")}),
        "ability": Value("string"),
        "env_name": Value("string"),
        "reward_model": {"ground_truth": Value("string"), "style": Value("string")},
        "extra_info": {name: Value("string") for name in ("answer", "index", "question", "split")},
    }
)
# With the tool, DeepEyes' prompt; without it, an answer in a box, where the reward of MATH looks for it.
MATH_SYSTEM = "You are a helpful assistant."
MATH_SUFFIX = "\nThink first, then put the final answer into \\boxed{}."


def from_verl(number: int, row: dict) -> dict:
    """A row of DeepEyes' schema as a sample.

    ``kind`` is the row's ``data_source``. The verifier is the one that `to_verl` wrote, or follows the row's
    reward and its answer (`verl_reward.verifier_of`).

    Args:
        number: the row's number, for want of an index.
        row: its columns, the image as bytes.

    Raises:
        BadRow: for what cannot be used.
    """
    extra, truth = row.get("extra_info") or {}, row.get("reward_model") or {}
    if not isinstance(extra, dict) or not isinstance(truth, dict):
        raise BadRow("extra_info and reward_model must be structs")
    kind, answer = read_text(row, "data_source"), read_text(truth, "ground_truth")
    question = _question(extra, row.get("prompt"))
    images = row.get("images") if isinstance(row.get("images"), list) else []
    if len(images) != 1:
        raise BadRow(f"{len(images)} images; a sample has exactly one")
    data = images[0].get("bytes") if isinstance(images[0], dict) else None
    if not isinstance(data, bytes) or not data:
        raise BadRow("the image is not in the file; bytes are missing")
    _, data, _ = read_image(data, f"image of {kind}")
    options = split_options(question)[1]
    return new_sample(
        {"question": question, "answer": answer},
        id=f"{kind}-{read_text(extra, 'index', str(number))}",
        image=data,
        kind=kind,
        source="DeepEyes-47k",
        options=options,
        verifier=verifier_of(kind, answer, options, str(extra.get("split"))),
    )


def _question(extra: dict, prompt: object) -> str:
    """The bare question: from extra_info, or out of the prompt; without placeholder and suffix."""
    text = extra.get("question")
    if not text and isinstance(prompt, list):
        user = [m for m in prompt if isinstance(m, dict) and m.get("role") == "user"]
        text = user[-1].get("content") if user else ""
    text = str(text or "").replace("<image>", "")
    return text.split(FORMAT[1:50])[0].split(MATH_SUFFIX)[0].strip()


def to_verl(sample: dict) -> dict:
    """A sample as a row of DeepEyes' schema; the image as stored, ``{"bytes": …, "path": …}``.

    ``data_source`` decides which reward the public code takes. It is the sample's kind where that is one
    of the three; else ``thinklite_eureka`` for math and ``vstar`` for the rest. The system prompt is
    DeepEyes', in pixels of the image, as its tool takes boxes.
    """
    kind, question, answer = sample["kind"], sample["question"], sample["answer"]
    if kind not in (*VISUAL, MATH):
        kind = MATH if sample["verifier"] == "math" else "vstar"
    tool = kind != MATH
    derived = verifier_of(kind, answer, split_options(question)[1])
    rule = "" if sample["verifier"] == derived else f":{sample['verifier']}"
    return {
        "data_source": kind,
        "prompt": [
            {"role": "system", "content": deepeyes_system() if tool else MATH_SYSTEM},
            {"role": "user", "content": f"<image>\n{question}{FORMAT if tool else MATH_SUFFIX}"},
        ],
        "images": [{"bytes": sample["image"]["bytes"], "path": None}],
        "ability": sample["kind"],
        "env_name": "visual_toolbox_v2" if tool else "",
        "reward_model": {"ground_truth": answer, "style": "model"},
        "extra_info": {
            "answer": answer,
            "index": sample["id"].removeprefix(f"{kind}-"),
            "question": question,
            "split": f"train{rule}",  # the one text that nobody reads and `compute_score` is given
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
        yield from map(to_verl, stored)

    with atomic_write(path) as tmp:
        exported = IterableDataset.from_generator(rows, features=VERL_FEATURES)
        exported.to_parquet(str(tmp), batch_size=64)
    return len(dataset)
