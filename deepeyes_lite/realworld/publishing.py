"""A finished run as a model to serve: weights merged, files of the base model, a card of its own figures."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import snapshot_download
from peft import PeftModel

from deepeyes_lite.evaluation import table
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import load, spec_of
from deepeyes_lite.training import RunConfig, read_config, read_history

# Of the base model everything but weights goes along: configuration, tokenizer, processor.
FILES = ["*.json", "*.txt", "*.jinja", "*.model"]
NOT_FILES = ["*.safetensors.index.json", "chat_template.json", "card.json"]


def merge(out: str | Path, to: str | Path) -> Path:
    """Write a finished run as a whole model, for ``transformers``, vLLM or SGLang to serve.

    An adapter that was trained on 4 bits is added to the weights in full precision, which is close to
    what was trained and not the same.

    Args:
        out: run folder.
        to: folder to write; it must not be there.

    Raises:
        FileNotFoundError: if the run is not done.
        FileExistsError: if the folder is there.
    """
    out, to = Path(out), Path(to)
    config = read_config(out)
    if not (out / "adapter").exists():
        raise FileNotFoundError(f"no adapter in {out}; finish the run with `train --out {out}`")
    if to.exists():
        raise FileExistsError(f"{to} is there already; choose another folder or delete it")
    model, processor = load(config.model, max_pixels=config.max_pixels)
    model = PeftModel.from_pretrained(model, out / "adapter").merge_and_unload()
    base = Path(config.model)
    if not base.exists():
        base = Path(snapshot_download(config.model, allow_patterns=FILES))
    with atomic_write(to) as tmp:
        tmp.mkdir()
        for pattern in FILES:
            for path in base.glob(pattern):
                if not any(path.match(name) for name in NOT_FILES):
                    shutil.copy(path, tmp / path.name)
        model.save_pretrained(tmp)
        # With the family's own template a server offers the tool as the training did.
        template = spec_of(processor).chat_template or processor.chat_template
        (tmp / "chat_template.jinja").write_text(template, encoding="utf-8")
        (tmp / "README.md").write_text(card(out), encoding="utf-8")
    return to


def card(out: str | Path) -> str:
    """The model card of a run, in Markdown: what it was made of, and what of it was measured."""
    out = Path(out)
    config = read_config(out)
    rows = read_history(out / "history.csv")
    method = "QLoRA" if config.quantise else "LoRA"
    changed = {k: v for k, v in asdict(config).items() if v != getattr(RunConfig(), k)}
    lines = [
        "---",
        f"base_model: {json.dumps(config.model)}",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "tags: [deepeyes-lite, grpo, tool-use]",
        "---",
        "",
        f"# {Path(config.model).name}, trained to zoom",
        "",
        f"`{config.model}` after {len(rows)} steps of GRPO with {method} (rank {config.lora_rank}), reward "
        f"`{config.reward}`, {config.prompts_per_step} x {config.num_generations} rollouts a step, seed {config.seed}; "
        f"questions: {config.data or 'scenes of the tiny world'}. It may call `image_zoom_in_tool`, as in "
        "DeepEyes (arXiv 2505.14362). Made with deepeyes-lite; what differs from its defaults:",
        "",
        "```json",
        json.dumps(changed, indent=2),
        "```",
        "",
        "## Training",
        "",
        "| step | accuracy | call rate | best IoU | reward |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in [*rows[:1], *rows[-1:]]:
        figures = (row[k] for k in ("accuracy", "call_rate", "best_iou", "reward"))
        lines.append(f"| {row['step']} | " + " | ".join(f"{value:.2f}" for value in figures) + " |")
    lines += [
        "",
        "Of the rollouts of that step, with the prompts of that step.",
        "",
        "## Evaluation",
        "",
    ]
    measured = out / "evaluation.json"
    if measured.exists():
        report = json.loads(measured.read_text(encoding="utf-8"))
        lines += ["```", table(report), "```"]
    else:
        lines.append("Not evaluated.")
    return "\n".join(lines) + "\n"
