"""A finished run as a model to serve: weights merged, the base's other files, a card of its own figures."""

import json
import shutil
from pathlib import Path

from huggingface_hub import snapshot_download
from peft import PeftModel

from deepeyes_lite.evaluation import table
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import find, load
from deepeyes_lite.training import read_config

CARD = """---
base_model: {base}
library_name: {library}
pipeline_tag: image-text-to-text
tags: [deepeyes-lite, grpo, tool-use]
---

# {name}, trained to zoom

`{model}` after {steps} steps of GRPO with LoRA (rank {lora_rank}), reward variant `{reward}`,
{prompts_per_step} x {num_generations} rollouts a step, seed {seed}; questions: {questions}.
The model may call `image_zoom_in_tool`.

## Evaluation

{evaluation}

## Licence and citation

The licence is that of the base model. Made with deepeyes-lite; the method is DeepEyes' (Zheng et al.,
*DeepEyes: Incentivizing "Thinking with Images" via Reinforcement Learning*, arXiv:2505.14362).
"""


def card(run: str | Path, library: str = "transformers") -> str:
    """The model card of a run, in Markdown: what it was made of, and what of it was measured.

    Args:
        run: run folder.
        library: what loads the folder that the card is for: transformers, or peft for an adapter.
    """
    config, report = vars(read_config(run)), Path(run) / "evaluation.json"
    evaluation = "Not evaluated."
    if report.exists():
        evaluation = f"```\n{table(json.loads(report.read_text(encoding='utf-8')))}\n```"
    base, name = json.dumps(config["model"]), Path(config["model"]).name
    questions = config["data"] or "scenes of the tiny world"
    values = {"base": base, "name": name, "questions": questions, "library": library}
    return CARD.format(**config, **values, evaluation=evaluation)


def merge(run: str | Path, to: str | Path) -> Path:
    """Write a finished run as a whole model, for ``transformers``, vLLM or SGLang to serve.

    An adapter that was trained on 4 bits is added to the weights in full precision, which is close to
    what was trained and not the same.

    Args:
        run: run folder.
        to: folder to write; it must not exist.

    Raises:
        FileNotFoundError: if the run is not done.
        FileExistsError: if the folder exists.
    """
    config, adapter, to = read_config(run), Path(run) / "adapter", Path(to)
    if not adapter.exists():
        raise FileNotFoundError(f"no adapter in {run}; finish the run with `train --out {run}`")
    if to.exists():
        raise FileExistsError(f"{to} is there already; choose another folder or delete it")
    model, processor = load(config.model, max_pixels=config.max_pixels)
    base = Path(find(config.model))
    if not base.exists():
        base = Path(snapshot_download(config.model, allow_patterns=["*.json", "*.txt", "*.jinja"]))
    with atomic_write(to) as tmp:
        # A server wants the base's own processor: ours has no video half.
        weights = shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.csv", "card.json")
        shutil.copytree(base, tmp, ignore=weights)
        PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp)
        # With the family's own template a server offers the tool as the training did.
        (tmp / "chat_template.json").unlink(missing_ok=True)
        (tmp / "chat_template.jinja").write_text(processor.chat_template, encoding="utf-8")
        (tmp / "README.md").write_text(card(run), encoding="utf-8")
    return to
