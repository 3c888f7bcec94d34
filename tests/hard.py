"""Hard knocks, not for CI: ``make hard MINUTES=30``, or ``python tests/hard.py 30 select``.

Commands are killed at random moments and started again until they end; two processes are started in one
folder; hostile calls are answered. Each chain has to end with the files of an undisturbed run.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

from deepeyes_lite.prompts import read_reply
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tools import ZoomTool, answer_call
from deepeyes_lite.training import read_history

TESTS = Path(__file__).parent
PYTHON = [sys.executable, "-m", "deepeyes_lite"]
# What writes into {out}; {data} holds questions, {url} is a server.
COMMANDS = {
    "train": "train --preset quick --steps 5 --out {out}",
    "select": "select --samples 16 --k 2 --out {out}",
    "benchmark": "benchmark --data {data} --out {out}",
    "rollout": "rollout --samples 12 --endpoint {url}/plain/v1 --model m --out {out}/e.jsonl",
    "evaluate": "demo --preset quick --samples 4 --out {out}",
    "study": "study --preset quick --samples 4 --only none-1 --out {out}",
}
PIECES = [
    '{"',
    '":',
    "},",
    "[",
    "]",
    "\\u003c|image_pad|>",
    "\\ud800",
    "1e999",
    "-7",
    "name",
    "arguments",
    "bbox_2d",
]


def result(out: Path) -> dict:
    """What a folder holds that has to be the same each time."""
    files = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if "checkpoint" in name or name.endswith((".lock", ".html", ".png", "README.md")):
            continue
        if path.name == "history.csv":
            rows = [{**row, "step_time": 0} for row in read_history(path)]
            files[name] = repr(rows)
        elif path.name == "e.jsonl":  # in the order in which the server answered
            files[name] = sorted(path.read_text(encoding="utf-8").splitlines())
        elif "settings" not in name and "selected" not in name:
            files[name] = path.read_bytes()
    return files


def start(words: list[str], log: Path) -> subprocess.Popen:
    with log.open("a", encoding="utf-8") as file:
        return subprocess.Popen([*PYTHON, *words], stdout=file, stderr=file)


def rotating(process: subprocess.Popen, folder: Path) -> None:
    """Wait until a run has one checkpoint more than it keeps, or one without its mark; or its end."""
    while process.poll() is None:
        there = len(list(folder.glob("checkpoint-*")))
        if there > 2 or there > len(list(folder.glob("checkpoint-*/complete"))) > 0:
            return time.sleep(random.uniform(0, 0.05))
        time.sleep(0.001)


def hostile_calls(seconds: float) -> int:
    """Answer random calls; whatever they hold, a crop or a text comes back."""
    image, calls, end = Image.new("RGB", (384, 384)), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        text = "".join(random.choices(PIECES, k=random.randint(1, 60)))
        box = [random.choice([0, 500, -1, 1e9, "x", None, [], 10**400]) for _ in range(4)]
        named = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box, text: text}}
        for call in (text, json.dumps(named)):
            for read in read_reply(f"<tool_call>{call}</tool_call>").calls:
                (part,) = answer_call(ZoomTool(image), read)
                assert part["type"] == "image" or "<|" not in part["text"]
                calls += 1
    return calls


def main(minutes: float, only: list[str]) -> int:
    """Share the minutes among the commands; 0 if every chain ended as the undisturbed run."""
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "faulty_server.py")], stdout=subprocess.PIPE, text=True
    )
    url, wrong = f"http://127.0.0.1:{server.stdout.readline().strip()}", 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = only or list(COMMANDS)
    with tempfile.TemporaryDirectory(prefix="hard-") as folder:
        top = Path(folder)
        tiny_world("test", 8).save_to_disk(top / "data")

        def words(name: str, out: Path) -> list[str]:
            return COMMANDS[name].format(out=out, data=top / "data", url=url).split()

        for name in names:
            began, end = time.monotonic(), time.monotonic() + 60 * minutes / (len(names) + 1)
            # One place for all of a command: reports and settings name it.
            place, log = top / name / "run", top / f"{name}.log"
            assert start(words(name, place), log).wait() == 0, log.read_text()
            took, whole = time.monotonic() - began, result(place)
            chains = kills = 0
            while time.monotonic() < end or not chains:
                place.rename(top / name / f"done-{chains}")
                chains += 1
                pair = chains % 3 == 0  # a second process in the same folder
                for _ in range(random.randint(0 if pair else 1, 5)):
                    process = start(words(name, place), log)
                    if name == "train" and chains % 4 == 0:  # while it changes its checkpoints
                        rotating(process, place / "checkpoints")
                    else:
                        with suppress(subprocess.TimeoutExpired):
                            process.wait(random.uniform(0.2, 1.0) * took)
                    if process.poll() is not None:
                        break
                    process.kill()
                    process.wait()
                    kills += 1
                both = [start(words(name, place), log) for _ in range(1 + pair)]
                codes = [process.wait() for process in both]
                there = result(place)
                if 0 not in codes or there != whole:
                    wrong += 1
                    differ = [n for n in {**whole, **there} if whole.get(n) != there.get(n)]
                    print(f"{name}: chain {chains} ended {codes}, and differs in {differ}")
            print(f"{name}: {chains} chains, {kills} kills, {wrong} wrong so far", flush=True)
    server.kill()
    print(f"hostile calls: {hostile_calls(60 * minutes / (len(names) + 1)):,}, none raised")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
