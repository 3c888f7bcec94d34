"""Be the policy: zoom by hand, answer, and be scored as the model is."""

import time
from pathlib import Path

from ipywidgets import HTML, BoundedIntText, Button, HBox, Layout, Text, VBox
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from deepeyes_lite import DATA, prompts
from deepeyes_lite.boxes import Box, px_from_1000, rescale
from deepeyes_lite.evaluation import average, interval, share, summarise
from deepeyes_lite.files import atomic_write
from deepeyes_lite.models import frame_of, tool_of, view_of
from deepeyes_lite.policies import ScriptedPolicy
from deepeyes_lite.rewards import VARIANTS
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tools import MAX_CALLS
from deepeyes_lite.trajectories import Trajectory, Turn, read_jsonl, write_jsonl
from deepeyes_lite.viz import html
from deepeyes_lite.viz.plots import draw_boxes, draw_image
from deepeyes_lite.viz.widgets.controls import BoxPicture, Panel, wrapped

# What a reader reached by hand in notebook 01; git ignores the folder.
# Beside data/ in the repository; where the package is installed, in the working folder.
BY_HAND = (Path() if DATA.name == "_data" else DATA.parent) / "runs" / "by-hand.jsonl"
MAX_CHARS = 200  # of an answer
MIDDLE = [375, 375, 625, 625]  # where the box stands at first
SIDES = ("left", "top", "right", "bottom")


def by_hand(record: str | Path = BY_HAND) -> dict[str, dict]:
    """The reader's own figures, as one more condition to show beside those of a policy.

    Args:
        record: the file of the episodes.

    Returns:
        Under "you" the figures of `summarise`, and ``seconds`` a question; empty if nobody has played.
    """
    episodes = read_jsonl(record) if Path(record).exists() else []
    if not episodes:
        return {}
    seconds = average([t.sample["seconds"] for t in episodes])
    return {"you": {**summarise(episodes), "seconds": seconds}}


class ZoomByHand(Panel):
    """A person in the place of the policy, with the model's eyes: the view, and crops for calls.

    Attributes:
        record: the episodes so far, as `rollout` makes them; ``sample["seconds"]`` is the time taken, and
            `evaluation.summarise` and `write_jsonl` take them like a model's.
    """

    def __init__(self, samples, processor, save_to: str | Path | None = None, model=()):
        """Ask questions.

        Args:
            samples: a dataset in our schema.
            processor: of the model, for the size of its view and its tokens.
            save_to: a JSONL file that keeps the record; what it holds already is not asked again.
            model: a model's episodes on the same samples, to compare with at the end.

        Raises:
            ValueError: if ``save_to`` holds the episodes of a model.
        """
        self.samples, self.processor = samples, processor
        self._model = {t.sample["id"]: t for t in model}
        self.save_to = Path(save_to) if save_to else None
        self.record: list[Trajectory] = []
        if self.save_to and self.save_to.exists():
            self.record = read_jsonl(self.save_to)
            if not all("seconds" in t.sample for t in self.record):
                raise ValueError(f"{self.save_to} holds episodes of a model; choose another file")
        done = {t.sample["id"] for t in self.record}
        self._left = [i for i, name in enumerate(samples["id"]) if name not in done]
        self._policy = ScriptedPolicy(processor, [])  # counts tokens
        children = self._build()
        self._open()
        if not self._left:
            self._end()
        super().__init__(children)

    def _build(self) -> list:
        self._question, self._crops, self._score = HTML(), HTML(), HTML()
        self._box = BoxPicture()
        narrow = {"min": 0, "max": 1000, "layout": Layout(width="150px")}
        self._numbers = [BoundedIntText(description=side, **narrow) for side in SIDES]
        self._cost = HTML(layout=Layout(max_width="420px"))  # a Label does not wrap
        self._zoom = Button(description="Zoom", tooltip="Call the tool with this box")
        self._text = Text(description="answer", placeholder="what the question asks for")
        self._submit = Button(description="Answer", button_style="primary")
        self._next = Button(description="Start", button_style="primary")
        self._box.observe(lambda change: self._set_numbers(change.new), "box")
        for number in self._numbers:
            number.observe(lambda _: self._set_box(), "value")
        self._zoom.on_click(lambda _: self.zoom())
        self._submit.on_click(lambda _: self.answer(self._text.value))
        self._text.on_msg(lambda _, message, __: self._on_key(message))
        self._next.on_click(lambda _: self.start())
        beside = VBox([HBox(self._numbers[:2]), HBox(self._numbers[2:]), self._cost, self._zoom])
        return [
            wrapped(self._next, self._text, self._submit),
            self._question,
            self._score,
            wrapped(self._box, VBox([beside, self._crops])),
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
        if self._box.running:
            return
        if not self._left:  # play again
            self.record, self._left = [], [*range(len(self.samples))]
        if self._answered:
            self._open()
        self._question.value += Markup("<b>{}</b>").format(html.excerpt(self._row["question"], 300))
        self._began, self._box.running = time.monotonic(), True
        self._allow()
        self._text.focus()

    def zoom(self) -> None:
        """Call the tool with the box; the crop comes back as the model would see it."""
        answer = self._answer()
        if self._zoom.disabled or answer is None:
            return
        crop, (x1, y1, x2, y2) = answer
        self._calls.append(self._call)
        self._tokens += self._tokens_of(crop)
        view = self._view_of(crop)
        self._pictures += Markup(
            '<img src="{}" alt="Zoom {}, as the model sees it." '
            'style="width:150px;margin:4px;image-rendering:pixelated">'
        ).format(html.data_uri(view, lossless=True), len(self._calls))
        self._crops.value = self._pictures + Markup("<div>{}</div>").format(
            f"Zoom {len(self._calls)}: {x2 - x1:.0f} × {y2 - y1:.0f} px of the image, for the model "
            f"{view.width} × {view.height} px. Zooms so far: {self._tokens} tokens."
        )
        self._allow()

    def answer(self, text: str) -> Trajectory | None:
        """End the episode with an answer; None if it cannot be taken."""
        text = text.strip()
        if not self._box.running:
            return None
        if not text or len(text) > MAX_CHARS or any(c in "<>" or not c.isprintable() for c in text):
            self._score.value = (
                f"Write the answer alone: 1 to {MAX_CHARS} characters, without &lt; and &gt;."
            )
            return None
        seconds = time.monotonic() - self._began
        policy = ScriptedPolicy(self.processor, [*self._calls, prompts.answer("", text)])
        # Nobody cuts a person off, whatever the size of the model's crops.
        (episode,) = rollout([self._row], policy, progress=False, max_completion_length=10**6)
        episode.sample["seconds"] = round(seconds, 2)
        self.record.append(episode)
        if self.save_to:
            with atomic_write(self.save_to) as tmp:
                write_jsonl(self.record, tmp)
        self._box.running, self._answered = False, True
        self._left.pop(0)
        self._next.description = "Next question"
        self._reveal(episode)
        if not self._left:
            self._end()
        self._allow()
        self._next.focus()
        return episode

    # --- how it looks -------------------------------------------------------------------------------

    def _open(self) -> None:
        """Show the next question, with the clock still."""
        self._row = self.samples[self._left[0] if self._left else 0]
        self._image = self._row["image"]
        self._calls: list[str] = []
        self._pictures, self._tokens = Markup(""), 0  # of the crops
        self._prompt = len(self._policy.prompt_ids(self._row["question"], self._image))
        self._answered = False
        number, total = len(self.samples) - len(self._left) + 1, len(self.samples)
        self._next.description = "Next question" if self.record else "Start"
        self._view = self._view_of(self._image)
        self._question.value = Markup(
            "Question {} of {}. You see what the model sees: drag a box or set its sides (0 to 1000), "
            "zoom, answer. {} asks it and starts the clock.<br>"
        ).format(number, total, self._next.description)
        self._box.src = html.data_uri(self._view, lossless=True)
        width, height = self._view.size
        self._box.alt = f"The model's view of the image, {width} × {height} px."
        self._box.box = MIDDLE
        self._set_numbers(MIDDLE)
        self._crops.value = self._score.value = self._text.value = ""
        self._allow()

    def _allow(self) -> None:
        running = self._box.running
        self._zoom.disabled = not running or len(self._calls) >= MAX_CALLS
        self._submit.disabled = self._text.disabled = not running
        self._next.disabled = running
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
        if (answer := self._answer()) is None:
            self._cost.value = "The box is empty: right beyond left, bottom below top."
            return
        crop, (x1, y1, x2, y2) = answer
        seen = view_of(self.processor)(crop.size)[0] / (x2 - x1)
        times = seen * self._image.width / self._view.width
        self._cost.value = (
            f"This zoom: {x2 - x1:.0f} × {y2 - y1:.0f} px, {times:.1f} times as large as in the view, "
            f"for {self._tokens_of(crop)} tokens; the question with its view took {self._prompt}."
        )

    @property
    def _bbox_2d(self) -> list[int]:
        """The box as the model would write it, in its own frame."""
        frame = frame_of(self.processor, self._image.size)
        return [round(value) for value in rescale(self.box_1000, (1000, 1000), frame)]

    @property
    def _call(self) -> str:
        return prompts.tool_call({"bbox_2d": self._bbox_2d})

    def _answer(self) -> tuple[Image.Image, Box] | None:
        """The crop that a zoom with the box brings, and where it is cut; None for an empty box."""
        tool = tool_of(self.processor)(self._image)
        (part,) = tool.image_zoom_in_tool(self._bbox_2d)
        return (part["image"], tool.crops_px[0]) if tool.crops_px else None

    def _view_of(self, image: Image.Image) -> Image.Image:
        """A scene or a crop at the size at which the model sees it."""
        size = view_of(self.processor)(image.size)
        return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)

    def _tokens_of(self, crop: Image.Image) -> int:
        """What a call costs the episode: its own text, the crop, and the markup around it."""
        call = self._call + prompts.TURN_END
        written = self.processor.tokenizer(call, add_special_tokens=False)["input_ids"]
        observation = self._policy.observation_ids([[{"type": "image", "image": crop}]])
        return len(written) + len(observation)

    def _on_key(self, message: dict) -> None:
        """Enter answers."""
        if message.get("event") == "submit":
            self.answer(self._text.value)

    def _reveal(self, episode: Trajectory) -> None:
        n = len(self.record)
        correct = sum(t.correct for t in self.record)
        overlaps = [t.best_iou for t in self.record if t.best_iou is not None]
        call_rate = sum(t.called for t in self.record) / n
        seconds = sum(t.sample["seconds"] for t in self.record) / n
        overlap = f"mean IoU {sum(overlaps) / len(overlaps):.2f}" if overlaps else "no zoom yet"
        self._score.value = Markup(
            "<b>{}</b>, {:.1f} s, {} tokens{}{}<p>You so far: {} right of {}, {}, {:.1f} s a question.</p>"
        ).format(
            html.excerpt(html.verdict(episode), 200),
            episode.sample["seconds"],
            len(episode.completion_ids),
            html.reward_table(html.parts(VARIANTS["conditional"], episode, call_rate)),
            html.picture(episode),
            interval(share(correct, n)),
            n,
            overlap,
            seconds,
        )

    def _end(self) -> None:
        """You against the model, question by question."""
        self._answered, self._next.description = True, "Play again"
        head = "<tr><th>question</th><th>you</th><th>seconds</th><th>IoU</th><th>model</th><th>IoU</th></tr>"
        row = Markup("<tr>" + "<td>{}</td>" * 6 + "</tr>")
        rows = []
        for t in self.record:
            model = self._model.get(t.sample["id"])
            theirs = (_mark(model), _iou(model)) if model else ("–", "–")
            question = html.excerpt(t.sample.get("question", ""), 80)
            rows.append(row.format(question, _mark(t), t.sample["seconds"], _iou(t), *theirs))
        mine = sum(t.correct for t in self.record)
        rival = [self._model[t.sample["id"]] for t in self.record if t.sample["id"] in self._model]
        against = f", the model {sum(t.correct for t in rival)} of {len(rival)}" if rival else ""
        self._score.value += Markup("<p><b>You {} of {}{}.</b></p><table>{}{}</table>").format(
            mine, len(self.record), against, Markup(head), Markup("").join(rows)
        )

    # --- for readers without a kernel ---------------------------------------------------------------

    def picture(self) -> Figure:
        """The view with the box, and the crop that the model would see."""
        figure = Figure(figsize=(7, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        box_view = px_from_1000(self.box_1000, self._view.size)
        crop, crop_px = self._answer() or (Image.new("RGB", self._view.size, "white"), None)
        cut = [rescale(crop_px, self._image.size, self._view.size)] if crop_px else []
        zooming = Trajectory({}, [self._view], turns=[Turn("", [box_view], [], cut)])
        draw_boxes(left, zooming, "the view, with your box", fontsize=11)
        draw_image(right, self._view_of(crop), "what a zoom with it brings", fontsize=12)
        return figure

    @property
    def alt(self) -> str:
        """What one sees in `picture`."""
        question = html.line(self._row["question"])
        return (
            f"Zoom by hand. {question} Left, the model's view of the image with a box at {self.box_1000} "
            "of 1000; right, the crop that a zoom with this box brings."
        )


def _mark(t: Trajectory) -> str:
    return "✓" if t.correct else "✗"


def _iou(t: Trajectory) -> str:
    return "–" if t.best_iou is None else f"{t.best_iou:.2f}"
