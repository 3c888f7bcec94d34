"""Episodes for the tests of pages and widgets: made by hand, some of them by a hostile model."""

import json

from deepeyes_lite import prompts
from deepeyes_lite.boxes import px_to_1000
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tools import ZoomTool
from deepeyes_lite.training import HISTORY_COLUMNS, write_history
from deepeyes_lite.trajectories import Trajectory, Turn, crops, write_jsonl
from deepeyes_lite.viz.snapshots import EVERY, scenes

HOSTILE = '<img src=x onerror="document.title=1">\'"><script>alert(2)</script></svg></div>'
LONG = "K" * 100_000


def made(n=12, right=lambda i: i % 2 == 0, zooms=lambda i: i % 3, scenes=6, text="I look."):
    """Episodes on a few scenes in turn, whose calls come nearer to the target from turn to turn."""
    rows = tiny_world("test", scenes)
    episodes = []
    for i in range(n):
        row = rows[i % scenes]
        image, target = row["image"], row["boxes_px"][0]
        tool, turns = ZoomTool(image), []
        for number in range(zooms(i)):
            x1, y1, x2, y2 = px_to_1000(tuple(target), image.size)
            far = 150 / (number + 1)
            box = [round(min(1000, max(0, v))) for v in (x1 - far, y1 - far, x2 + far, y2)]
            tool.image_zoom_in_tool(box)
            call = f"<think>{text}</think>" + prompts.tool_call({"bbox_2d": box})
            turns.append(Turn(call, tool.boxes_px[-1:]))
        answer = row["answer"] if right(i) else "?"
        turns.append(Turn(prompts.answer(text, answer)))
        sample = {key: value for key, value in row.items() if key != "image"}
        episodes.append(
            Trajectory(
                sample=sample,
                images=[image, *crops(image, tool.boxes_px)],
                prompt_ids=[1, 2],
                completion_ids=[5, 6, 7, 8],
                loss_mask=[1, 1, 0, 1],
                turns=turns,
                answer=answer,
                correct=right(i),
                well_formed=True,
            )
        )
    return episodes


def hostile():
    """What a hostile model or a hostile file may hold, one episode each."""
    (row,) = tiny_world("test", 1)
    sample = {key: value for key, value in row.items() if key != "image"}
    image = row["image"]
    return [
        Trajectory(
            sample={
                **sample,
                "id": HOSTILE,
                "question": HOSTILE,
                "answer": HOSTILE,
                "kind": HOSTILE,
            },
            images=[image],
            turns=[Turn(f"<think>{HOSTILE}</think>{HOSTILE}", [], [HOSTILE])],
            answer=HOSTILE,
        ),
        Trajectory(sample=sample, images=[image], turns=[Turn(LONG)], answer=LONG),
        Trajectory(
            sample={**sample, "id": "odd", "boxes_px": [[HOSTILE] * 4, [1], None, [1, 2, 9e99, 4]]},
            images=[image],
            completion_ids=["<b>", -5, 1.5],
            loss_mask=[1, HOSTILE, 0],
            turns=[
                Turn("\x00\x1b[31m\u202e\ud800 漢字 $x^$", [(HOSTILE, 1, 2, 3)]),
                Turn("<think>" * 3000),
            ],
            answer="\ud800\n$x^$",
        ),
        Trajectory(sample={"id": 7}, turns=[], answer=5),
    ]


def recorded_run(folder, steps=12):
    """A run folder with a history, and six scenes before the first step and after every fifth."""
    (folder / "snapshots").mkdir(parents=True)
    config = {"data": "", "legible_share": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [
        {**dict.fromkeys(HISTORY_COLUMNS, i / steps), "step": i, "n_zoom": 1, "n_direct": 1}
        for i in range(1, steps + 1)
    ]
    write_history(rows, folder / "history.csv")
    names = list(scenes(config)["id"])
    for step in range(0, steps + 1, EVERY):
        found = made(6, right=lambda i, step=step: i < step / 2, text=f"Step {step}.")
        for t, name in zip(found, names):
            t.sample["id"] = name
        write_jsonl(found, folder / "snapshots" / f"{step:04}.jsonl")
    return folder
