"""Be the policy: zoom by hand, answer, and be scored as the model is."""

import os
import time
from pathlib import Path

from ipywidgets import HTML, BoundedIntText, Button, HBox, Layout, Text, VBox
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from deepeyes_lite import prompts, tools
from deepeyes_lite.boxes import px_from_1000, view_size
from deepeyes_lite.evaluation import interval, share
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rewards import variant as variant_named
from deepeyes_lite.rollout import rollout
from deepeyes_lite.trajectories import Trajectory, read_jsonl, write_jsonl
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import ORANGE
from deepeyes_lite.viz.widgets.controls import BoxPicture, Panel

MAX_CHARS = 200  # of an answer
SIDES = ("left", "top", "right", "bottom")


def model_view(image: Image.Image, image_processor) -> Image.Image:
    """The image at the size at which the model sees it.

    Args:
        image: a scene or a crop.
        image_processor: of a Qwen-VL model.
    """
    budget = image_processor.size
    factor = image_processor.patch_size * image_processor.merge_size
    least, most = budget["shortest_edge"], budget["longest_edge"]
    size = view_size(image.size, least, most, factor)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


class ZoomByHand(Panel):
    """A person in the place of the policy, with the model's eyes: the view, and crops for calls.

    Attributes:
        record: the episodes so far, as `rollout` makes them; ``sample["seconds"]`` is the time taken, and
            `evaluation.summarise` and `write_jsonl` take them like a model's.
    """

    def __init__(
        self, samples, processor, arm: str = "conditional", save_to: str | Path | None = None
    ):
        """Args: a dataset in our schema; the model's processor (view size, tokens); the arm that pays;
        a JSONL file that keeps the record: what it holds already is not asked again.

        Raises:
            ValueError: if nothing is left to ask, or ``save_to`` holds the episodes of a model.
        """
        self.samples, self.processor, self.weights = samples, processor, variant_named(arm)
        self.save_to = Path(save_to) if save_to else None
        self.record: list[Trajectory] = []
        if self.save_to and self.save_to.exists():
            self.record = read_jsonl(self.save_to)
            if not all("seconds" in t.sample for t in self.record):
                raise ValueError(f"{self.save_to} holds episodes of a model; choose another file")
        done = {t.sample["id"] for t in self.record}
        self._left = [i for i, name in enumerate(samples["id"]) if name not in done]
        if not self._left:
            raise ValueError(f"nothing left to ask: {len(done)} questions are answered already")
        self._build()
        self._open()
        super().__init__(self._children)

    def _build(self) -> None:
        self._question = HTML()
        self._box = BoxPicture()
        narrow = Layout(width="150px")
        self._numbers = [
            BoundedIntText(min=0, max=1000, description=side, layout=narrow) for side in SIDES
        ]
        self._cost = HTML(layout=Layout(max_width="420px"))  # a Label does not wrap
        self._zoom = Button(description="Zoom", tooltip="Call the tool with this box")
        self._crops = HTML()
        self._text = Text(description="answer", placeholder="what the question asks for")
        self._submit = Button(description="Answer", button_style="primary")
        self._next = Button(description="Start", button_style="primary")
        self._score = HTML()
        self._box.observe(lambda change: self._set_numbers(change.new), "box")
        for number in self._numbers:
            number.observe(lambda _: self._set_box(), "value")
        self._zoom.on_click(lambda _: self.zoom())
        self._submit.on_click(lambda _: self.answer(self._text.value))
        self._text.on_msg(lambda _, message, __: self._typed(message))
        self._next.on_click(lambda _: self.start())
        beside = VBox([HBox(self._numbers[:2]), HBox(self._numbers[2:]), self._cost, self._zoom])
        wrap = Layout(flex_flow="row wrap", grid_gap="12px")
        self._children = [
            self._question,
            HBox([self._box, VBox([beside, self._crops])], layout=wrap),
            HBox([self._text, self._submit, self._next], layout=wrap),
            self._score,
        ]

    # --- what a person does -------------------------------------------------------------------------

    @property
    def box_1000(self) -> tuple[int, ...]:
        """The box on the picture, 0-1000 of its width and height."""
        return tuple(self._box.box)

    @box_1000.setter
    def box_1000(self, box: tuple[int, int, int, int]) -> None:
        self._box.box = list(box)

    def start(self) -> None:
        """Start the clock, on the first question or on the next."""
        if self._running or not self._left:
            return
        if self._answered:
            self._open()
        self._running, self._began = True, time.monotonic()
        self._box.running = True
        self._allow()

    def zoom(self) -> None:
        """Call the tool with the box; the crop comes back as the model would see it."""
        if not self._running or len(self._calls) >= tools.MAX_CALLS:
            return
        box_px = px_from_1000(self.box_1000, self._image.size)
        try:
            crop, _ = tools.zoom(self._image, box_px)
        except tools.ToolError as error:
            self._cost.value = f"This box cannot be cut out: {html.excerpt(error)}"
            return
        self._calls.append(prompts.tool_call({"bbox_2d": list(self.box_1000)}))
        self._tokens += self._tokens_of(crop)
        seen = model_view(crop, self.processor.image_processor)
        self._seen.append(seen)
        self._crops.value = "".join(
            f'<img src="{html.data_uri(view, lossless=True)}" alt="Zoom {n}, as the model sees it." '
            'style="width:150px;margin:4px;image-rendering:pixelated">'
            for n, view in enumerate(self._seen, 1)
        ) + (
            f"<div>Zoom {len(self._seen)}: {crop.width} × {crop.height} px of the image, for the model "
            f"{seen.width} × {seen.height} px. Zooms so far: {self._tokens} tokens.</div>"
        )
        self._allow()

    def answer(self, text: str) -> Trajectory | None:
        """End the episode with an answer; None if it cannot be taken."""
        text = text.strip()
        if not self._running:
            return None
        if not text or len(text) > MAX_CHARS or any(c in "<>" or not c.isprintable() for c in text):
            self._score.value = (
                f"Write the answer alone: 1 to {MAX_CHARS} characters, without &lt; and &gt;."
            )
            return None
        seconds = time.monotonic() - self._began
        turns = [*self._calls, prompts.answer("", text)]
        policy = ScriptedPolicy(self.processor, turns)
        # Nobody cuts a person off, whatever the size of the model's crops.
        (episode,) = rollout([self._row], policy, progress=False, max_completion_length=10**6)
        episode.sample["seconds"] = round(seconds, 2)
        self.record.append(episode)
        self._save()
        self._running, self._box.running, self._answered = False, False, True
        self._left.pop(0)
        self._next.description = "Next question" if self._left else "Done"
        self._reveal(episode)
        self._allow()
        return episode

    # --- how it looks -------------------------------------------------------------------------------

    def _open(self) -> None:
        """Show the next question, with the clock still."""
        self._row = self.samples[self._left[0]]
        self._image = self._row["image"]
        self._calls: list[str] = []
        self._seen: list[Image.Image] = []
        self._tokens = 0
        prompt_ids = ScriptedPolicy(self.processor, []).prompt_ids
        self._asked = len(prompt_ids(self._row["question"], self._image))
        self._running, self._answered = False, False
        number, total = len(self.samples) - len(self._left) + 1, len(self.samples)
        self._view = model_view(self._image, self.processor.image_processor)
        self._question.value = (
            f"<b>Question {number} of {total}: {html.excerpt(self._row['question'], 300)}</b>"
            "<br>You see what the model sees. Drag a box or set its sides (0 to 1000), then zoom."
        )
        self._box.src = html.data_uri(self._view, lossless=True)
        self._box.alt = (
            f"The model's view of the image, {self._view.width} × {self._view.height} px."
        )
        self._box.box = [375, 375, 625, 625]
        self._set_numbers(self._box.box)
        self._crops.value = self._score.value = self._text.value = ""
        self._allow()

    def _allow(self) -> None:
        self._zoom.disabled = not self._running or len(self._calls) >= tools.MAX_CALLS
        self._submit.disabled = self._text.disabled = not self._running
        self._next.disabled = self._running or not self._left
        self._set_cost()

    def _set_numbers(self, box: list[int]) -> None:
        self._syncing = True  # else each number in turn would set the box
        for number, value in zip(self._numbers, box):
            number.value = value
        self._syncing = False
        self._set_cost()

    def _set_box(self) -> None:
        if not self._syncing:
            self._box.box = [number.value for number in self._numbers]

    def _set_cost(self) -> None:
        try:
            crop, _ = tools.zoom(self._image, px_from_1000(self.box_1000, self._image.size))
        except tools.ToolError:
            self._cost.value = "The box is empty: right beyond left, bottom below top."
            return
        times = self._image.width / crop.width
        self._cost.value = (
            f"This zoom: {crop.width} × {crop.height} px, {times:.1f} times as large as in the view, "
            f"for {self._tokens_of(crop)} tokens; the question with its view took {self._asked}."
        )

    def _tokens_of(self, crop: Image.Image) -> int:
        """What a call costs the episode: its own text, the crop, and the markup around it."""
        policy = ScriptedPolicy(self.processor, [])
        call = prompts.tool_call({"bbox_2d": list(self.box_1000)}) + prompts.TURN_END
        written = self.processor.tokenizer(call, add_special_tokens=False)["input_ids"]
        return len(written) + len(policy.observation_ids([[{"type": "image", "image": crop}]]))

    def _typed(self, message: dict) -> None:
        if message.get("event") == "submit":
            self.answer(self._text.value)

    def _reveal(self, episode: Trajectory) -> None:
        right = [t.correct for t in self.record]
        found = [t.best_iou for t in self.record if t.best_iou is not None]
        calling = sum(t.called for t in self.record) / len(self.record)
        seconds = [t.sample["seconds"] for t in self.record]
        overlap = f"mean IoU {sum(found) / len(found):.2f}" if found else "no zoom yet"
        self._score.value = (
            f"<b>{html.excerpt(html.verdict(episode), 200)}</b>, {episode.sample['seconds']:.1f} s, "
            f"{len(episode.completion_ids)} tokens"
            f"{html.reward_table(html.parts(self.weights, episode, calling))}"
            f"{html.picture(episode)}"
            f"<p>You so far: {interval(share(sum(right), len(right)))} right of {len(right)}, {overlap}, "
            f"{sum(seconds) / len(seconds):.1f} s a question.</p>"
        )

    def _save(self) -> None:
        if self.save_to:
            self.save_to.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.save_to.with_suffix(".tmp")
            write_jsonl(self.record, temporary)
            os.replace(temporary, self.save_to)

    # --- for readers without a kernel ---------------------------------------------------------------

    def picture(self) -> Figure:
        """The view with the box, and the crop that the model would see."""
        figure = Figure(figsize=(7, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.imshow(self._view, interpolation="nearest")
        x1, y1, x2, y2 = px_from_1000(self.box_1000, self._view.size)
        corner = (min(x1, x2) - 0.5, min(y1, y2) - 0.5)
        left.add_patch(
            Rectangle(corner, abs(x2 - x1), abs(y2 - y1), fill=False, color=ORANGE, linewidth=2.5)
        )
        left.set_title("the view, with your box", fontsize=12)
        try:
            crop, _ = tools.zoom(self._image, px_from_1000(self.box_1000, self._image.size))
        except tools.ToolError:  # an empty box brings nothing
            crop = Image.new("RGB", self._view.size, "white")
        crop = model_view(crop, self.processor.image_processor)
        right.imshow(crop, interpolation="nearest")
        right.set_title("what a zoom with it brings", fontsize=12)
        for axes in (left, right):
            axes.set_axis_off()
        return figure

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        question = html.line(self._row["question"])
        return (
            f"Zoom by hand. {question} Left, the model's view of the image with a box at {self.box_1000} "
            "of 1000; right, the crop that a zoom with this box brings."
        )
