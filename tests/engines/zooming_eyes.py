"""What the jobs beside this file need: tiny-eyes that zooms, as one checkpoint, and held-out questions.

    python tests/engines/zooming_eyes.py FOLDER

Runs in the package's own environment. Writes FOLDER/eyes; two narrow models with random weights and the
processors of Qwen2.5-VL and Qwen3-VL; FOLDER/questions.parquet in DeepEyes' schema; and
FOLDER/local.jsonl, the greedy episodes of its questions.
"""

import shutil
import sys
from pathlib import Path

from peft import PeftModel

from deepeyes_lite import DATA
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.realworld.verl import export
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import held_out
from deepeyes_lite.trajectories import write_jsonl
from shapes import write_random

QUESTIONS = 100


def main(folder: Path) -> None:
    eyes = DATA / "tiny-eyes"
    model, processor = load(eyes)
    model = PeftModel.from_pretrained(model, DATA / "tiny-eyes-zooms").merge_and_unload()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "eyes").exists():
        with atomic_write(folder / "eyes") as tmp:
            shutil.copytree(eyes, tmp, ignore=shutil.ignore_patterns("*.safetensors", "card.json"))
            model.save_pretrained(tmp)
    for name in ("Qwen2.5-VL-3B", "Qwen3-VL-2B"):
        if not (folder / name).exists():
            with atomic_write(folder / name) as tmp:
                write_random(f"Qwen/{name}-Instruct", tmp, layers=1, narrow=True)
    questions = held_out(QUESTIONS)
    export(questions, folder / "questions.parquet")
    policy = LocalPolicy(model.eval(), processor, temperature=0)
    write_jsonl(rollout(questions, policy, progress=False), folder / "local.jsonl")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
