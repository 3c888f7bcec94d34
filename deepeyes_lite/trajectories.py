"""`Trajectory` and `Turn`: one episode, token by token; JSONL in and out.

Images are not written: a crop is a function of its box and the original, and the original belongs to
the data set. `read_jsonl` puts both back.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from deepeyes_lite.boxes import Box, iou
from deepeyes_lite.tools import ToolError, check_box, zoom

# What can be wrong with an episode of a served model besides its answer.
REMARKS = {
    "untagged": "answered without the tags; read by rule",
    "truncated": "with a reply cut off; raise --max-tokens",
    "ended": "ended by the server and counted wrong",
}


@dataclass
class Turn:
    """One assistant message and, if it called the tool, what came back.

    Attributes:
        text: what the model wrote, special tokens included.
        boxes_px: the box of its answered call, inside the image; at most one, in older files several.
        errors: what the model was told instead of a crop.
        crops_px: what was cut for each of the boxes, see `tools.ZoomTool`; none in older files.
        truncated: whether a server cut it off at the greatest number of tokens.
    """

    text: str
    boxes_px: list[Box] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    crops_px: list[Box] = field(default_factory=list)
    truncated: bool = False

    @property
    def zooms(self) -> list[tuple[Box, Box]]:
        """The box that was asked for and what was cut, for each answered call; the box twice if unknown."""
        known = len(self.crops_px) == len(self.boxes_px)
        return list(zip(self.boxes_px, self.crops_px if known else self.boxes_px))


@dataclass
class Trajectory:
    """A whole episode.

    Attributes:
        sample: the row it belongs to (id, question, answer, boxes_px, kind, legible, source), no image.
        images: the original, then every crop, in the order of their placeholders.
        prompt_ids: token ids of the prompt; like the next two, empty if a served model played.
        completion_ids: token ids after the prompt: the model's turns and the observations.
        loss_mask: as long as ``completion_ids``; 1 on tokens the model wrote, 0 on observations.
        turns: the same as text.
        answer: what stands between the answer tags of the last turn, or None; of a served model that wrote
            no tags, what follows its thought.
        correct: whether the verifier accepts it.
        well_formed: whether every turn keeps the format.
    """

    sample: dict
    images: list[Image.Image] = field(default_factory=list)
    prompt_ids: list[int] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    answer: str | None = None
    correct: bool = False
    well_formed: bool = False

    @property
    def boxes_px(self) -> list[Box]:
        """Boxes of the answered calls."""
        return [box for turn in self.turns for box in turn.boxes_px]

    @property
    def crops_px(self) -> list[Box]:
        """What was cut for them, see `Turn`."""
        return [box for turn in self.turns for box in turn.crops_px]

    @property
    def called(self) -> bool:
        """Whether at least one call was answered with a crop."""
        return bool(self.boxes_px)

    @property
    def remarks(self) -> list[str]:
        """Those keys of ``REMARKS`` that are true of the episode."""
        last = self.turns[-1]
        untagged = self.answer is not None and "<answer>" not in last.text
        truncated = any(turn.truncated for turn in self.turns)
        true = {"untagged": untagged, "truncated": truncated, "ended": bool(last.errors)}
        return [name for name in REMARKS if true[name]]

    @property
    def best_iou(self) -> float | None:
        """Greatest IoU of a call with a target box; None without calls or without targets."""
        return best_iou(self.boxes_px, self.sample.get("boxes_px") or [])


def best_iou(boxes_px: list[Box], targets_px: list[Box]) -> float | None:
    """Greatest IoU of any box with any target, None where there is nothing to compare.

    >>> best_iou([(0, 0, 2, 2), (0, 0, 4, 4)], [(0, 0, 4, 4)])
    1.0
    """
    return max((iou(box, target) for box in boxes_px for target in targets_px), default=None)


def write_jsonl(trajectories: Iterable[Trajectory], path: str | Path) -> None:
    """One episode a line, without images."""
    with Path(path).open("w", encoding="utf-8") as file:
        for trajectory in trajectories:
            file.write(jsonl_line(trajectory))


def jsonl_line(trajectory: Trajectory) -> str:
    """One episode as a line of JSON, without images."""
    row = asdict(Trajectory(**{**vars(trajectory), "images": []}))
    del row["images"]
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_jsonl(path: str | Path, images: dict[str, Image.Image] | None = None) -> list[Trajectory]:
    """Episodes from `write_jsonl`.

    Args:
        path: the file.
        images: the original images by sample id; with it, the crops are cut again.

    Raises:
        ValueError: with the line's number, for a line that is no episode.
    """
    trajectories = []
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                turns = [
                    Turn(
                        t["text"],
                        [tuple(box) for box in t["boxes_px"]],
                        t["errors"],
                        [tuple(box) for box in t.get("crops_px", [])],
                        t.get("truncated", False),
                    )
                    for t in row.pop("turns")
                ]
                trajectory = Trajectory(**row, turns=turns)
                image = (images or {}).get(trajectory.sample.get("id"))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: not an episode ({error!r})") from error
            if image is not None:
                trajectory.images = [image, *crops_of(trajectory, image)]
            trajectories.append(trajectory)
    return trajectories


def crops_of(trajectory: Trajectory, image: Image.Image) -> list[Image.Image]:
    """The crops of an episode, cut again out of its original image."""
    if len(trajectory.crops_px) == len(trajectory.boxes_px):
        return crops(image, trajectory.crops_px, square=False)
    return crops(image, trajectory.boxes_px)  # an older file


def crops(image: Image.Image, boxes_px: list[Box], square: bool = True) -> list[Image.Image]:
    """Crops out of an image, see `tools.zoom`."""
    images = []
    for box in boxes_px:
        try:
            images.append(zoom(image, check_box(box), square)[0])
        except ToolError:  # a box that was edited by hand: leave the crop out, keep the episode
            continue
    return images
