"""Measure presets for GPUs where no weights are: ``python tests/gpu_session.py OUT [PRESET[:full] …]``.

The models have their published shapes and random weights, made on the GPU. Each preset has a process of its
own and leaves ``OUT/PRESET.json`` as soon as it is done, or ``OUT/PRESET.txt`` if it fails. Memory alone is
measured, unless ``:full`` asks for two steps in which every token is generated. Without a GPU the models are
cut down: that rehearses the way, and measures nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = ["24GB", "80GB", "8GB"]


def random_weights(name: str, quantise: bool, max_pixels: int, cache: bool):
    """In the place of `models.load`."""
    import torch
    from transformers import AutoModelForImageTextToText

    from deepeyes_lite import models
    from shapes import config_of, processor_of

    cuda = torch.cuda.is_available()
    processor = models.ready(processor_of(name), max_pixels)
    config = config_of(name) if cuda else config_of(name, layers=2, narrow=True)
    torch.manual_seed(0)
    with models.device():
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    if not quantise or not find_spec("bitsandbytes"):
        return model, processor
    with tempfile.TemporaryDirectory() as folder:  # weights are packed while they are loaded
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
        return models.load(folder, quantise, max_pixels)


def measure(out: Path, name: str, quick: bool) -> None:
    import torch

    from deepeyes_lite import training
    from deepeyes_lite.realworld import gpu

    training.load, gpu._look_for_room = random_weights, lambda model: None
    few = {"prompts_per_step": 1, "num_generations": 2, "max_calls": 2, "max_new_tokens": 96}
    few |= {"max_pixels": 64 * gpu.SHAPES[gpu.GPUS[name].model].spec.factor ** 2}
    few = {} if torch.cuda.is_available() else few
    measured = gpu.check(name, gpu.GPUS[name].model, quick=quick, **few)
    print(gpu.report(measured))
    measured["weights"] = "random, of the published shape"
    (out / f"{name}.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def main(out: Path, tasks: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    for task in tasks:
        began = time.perf_counter()
        command = [sys.executable, __file__, "--one", str(out), task]
        ran = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        print(
            f"{task}: {time.perf_counter() - began:.0f} s, exit status {ran.returncode}", flush=True
        )
        if ran.returncode:
            print(ran.stderr[-1500:], flush=True)
            (out / f"{task.replace(':', '-')}.txt").write_text(ran.stderr, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        preset, _, full = sys.argv[3].partition(":")
        measure(Path(sys.argv[2]), preset, quick=not full)
    else:
        main(Path(sys.argv[1]), sys.argv[2:] or ORDER)
