"""A served model plays the episode.

A server has text only: no token ids, no loss mask, nothing to train on. Whether it parses thoughts and
tool calls itself or leaves them in the text, the episode is kept as the text that the model wrote, and
sent back as that text. So a vLLM without any parser and a template without a tool section (Qwen2.5-VL's)
will do.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from threading import Lock

from PIL import Image
from tqdm.auto import tqdm
from transformers.utils import get_json_schema

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Size, px_to_1000, view_size
from deepeyes_lite.policies import Policy
from deepeyes_lite.realworld.endpoint import ConversationError, Endpoint
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study.extra_tools import extra_tool, with_extra
from deepeyes_lite.tools import MAX_CALLS, ZOOM, ToolError, ZoomTool, check_box, methods
from deepeyes_lite.trajectories import Trajectory, Turn, jsonl_line, read_jsonl
from deepeyes_lite.verifiers import Judge

MAX_REPLY_CHARS = 40_000  # of a turn; 10,000 tokens, DeepEyes' own bound
FRAMES = {"tools": "box_1000", "deepeyes": "box_view"}  # what the models of a prompt speak
MIN_PIXELS, MAX_PIXELS = 56 * 56, 4096 * 28 * 28  # of a view: Qwen2.5-VL's least, and 4096 tokens

# The schema of DeepEyes' own tool, as its weights know it (public code, Apache-2.0, ``eval/eval_vstar.py``),
# with one slip mended: theirs requires "bbox", a property that does not exist.
_DEEPEYES_TOOL = {
    "type": "function",
    "function": {
        "name": ZOOM,
        "description": "Zoom in on a specific region of an image by cropping it based on a bounding box "
        "(bbox) and an optional object label.",
        "parameters": {
            "type": "object",
            "properties": {
                "bbox_2d": {
                    "type": "array",
                    "items": {"type": "number"},
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "The bounding box of the region to zoom in, as [x1, y1, x2, y2], "
                    "where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner.",
                },
                "label": {
                    "type": "string",
                    "description": "The name or label of the object in the specified bounding box "
                    "(optional).",
                },
            },
            "required": ["bbox_2d"],
        },
    },
}
DEEPEYES_SYSTEM = (
    prompts._ASSISTANT
    + prompts._BEFORE_SCHEMAS
    + json.dumps(_DEEPEYES_TOOL, separators=(",", ":"))
    + prompts._AFTER_SCHEMAS
)


class EndpointPolicy(Policy):
    """A served model plays the episode.

    Images are sent as PNG data URLs. Where the model speaks ``box_view``, they are resized to the view
    here, by the rule of its own image processor, so that the numbers that it gives are pixels of an image
    whose size is known (DeepEyes issue #141 is about one whose size was not). This holds as long as the
    server's own pixel budget is not smaller than ``max_pixels``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        prompt: str = "tools",
        frame: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 2048,
        max_pixels: int = MAX_PIXELS,
        tools: bool = True,
        extra: str = "",
    ):
        """Args: the served model; "tools" (the server's template gets the tool's schema) or "deepeyes"
        (DeepEyes' own prompt); "box_view" or "box_1000", where None takes the prompt's own
        (``FRAMES``); sampling temperature; tokens of a turn; greatest area of a view in pixels;
        whether the prompt offers the tool; a tool beside it, a key of ``extra_tools.EXTRA_TOOLS``.

        Raises:
            ValueError: for an unknown prompt, frame or tool, or one that the prompt cannot offer.
        """
        if prompt not in FRAMES:
            raise ValueError(f"prompt must be one of {', '.join(FRAMES)}, got {prompt!r}")
        frame = frame or FRAMES[prompt]
        if frame not in FRAMES.values():
            raise ValueError(f"frame must be one of {', '.join(FRAMES.values())}, got {frame!r}")
        if extra and prompt == "deepeyes":
            raise ValueError(
                f"the prompt 'deepeyes' knows the zoom alone; offer {extra!r} with 'tools'"
            )
        self.tool_class = with_extra(ZoomTool, extra_tool(extra)) if extra else ZoomTool
        self.tools = methods(self.tool_class()) if tools else None
        self.endpoint, self.prompt, self.frame = endpoint, prompt, frame
        self.temperature, self.max_tokens, self.max_pixels = temperature, max_tokens, max_pixels

    def prompt_ids(self, question: str, image: Image.Image) -> list[int]:
        """None: tokens are the server's affair. A question with markup is refused all the same."""
        prompts.user_message(question)
        return []

    def observation_ids(self, contents: list[list[dict] | str]) -> list[int]:
        """None, see `prompt_ids`."""
        return []

    def reply(self, trajectories: list[Trajectory], allow_calls: bool = True) -> list[Turn]:
        """The next turn of every conversation; one that outgrew the context gets an empty one and why.

        A server cannot be forbidden a token: without ``allow_calls`` the tool is not offered, and a reply
        is cut off where a call begins.

        Raises:
            EndpointError: if the server cannot be reached or refuses.
        """
        allow_calls = allow_calls and bool(self.tools)
        workers = min(self.endpoint.concurrency, len(trajectories))
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda t: self._reply(t, allow_calls), trajectories))

    def _reply(self, trajectory: Trajectory, allow_calls: bool) -> Turn:
        options = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        if allow_calls and self.prompt == "tools":
            options["tools"] = [self._schema(tool) for tool in self.tools]
        try:
            message = self.endpoint.complete(self.messages(trajectory, allow_calls), **options)
        except ConversationError as error:
            return Turn("", errors=[str(error)])
        text = written(message)
        return Turn(text if allow_calls else text.split("<tool_call>")[0])

    def messages(self, trajectory: Trajectory, allow_calls: bool = True) -> list[dict]:
        """The conversation so far in OpenAI's form."""
        deepeyes = self.prompt == "deepeyes"
        suffix = prompts.FORMAT if deepeyes and allow_calls else ""
        images = iter(trajectory.images)
        question = {"type": "text", "text": trajectory.sample["question"] + suffix}
        messages = [{"role": "user", "content": [self._image(next(images)), question]}]
        if deepeyes and allow_calls:
            messages.insert(0, {"role": "system", "content": DEEPEYES_SYSTEM})
        for turn in trajectory.turns:
            seen = [self._image(next(images)) for _ in turn.boxes_px]
            seen += [{"type": "text", "text": error} for error in turn.errors]
            observation = []
            for part in seen:
                observation += [{"type": "text", "text": "<tool_response>"}, part]
                observation += [{"type": "text", "text": f"{suffix}</tool_response>"}]
            messages.append({"role": "assistant", "content": turn.text})
            messages.append({"role": "user", "content": observation})
        return messages

    def calls(self, trajectory: Trajectory, reply: Turn) -> list[dict]:
        """The calls of a reply, their boxes in the tool's frame (``box_1000``).

        As with a local model, a malformed call makes the whole reply plain text, which ends the episode.
        """
        calls = []
        for piece in reply.text.split("<tool_call>")[1:][:MAX_CALLS]:
            inner, closed, _ = piece.partition("</tool_call>")
            try:
                call = json.loads(inner) if closed else None
            except (ValueError, RecursionError):
                return []
            if not isinstance(call, dict) or not isinstance(call.get("name"), str):
                return []
            arguments = self._in_1000(call.get("arguments"), trajectory.images)
            calls.append({"name": call["name"], "arguments": arguments})
        return calls

    def _in_1000(self, arguments: object, images: list[Image.Image]) -> object:
        if self.frame == "box_1000":
            return arguments
        try:
            box_view = check_box(arguments["bbox_2d"])
            size = self._view_size(images[arguments.get("image", 0)].size)
        except (ToolError, LookupError, TypeError, AttributeError):
            return arguments  # the tool says what is wrong with them
        return {**arguments, "bbox_2d": list(px_to_1000(box_view, size))}

    def _view_size(self, size: Size) -> Size:
        return view_size(size, MIN_PIXELS, self.max_pixels)

    def _image(self, image: Image.Image) -> dict:
        """A view as a data URL: lossless, so that the server sees what a local model would see."""
        if self.frame == "box_view" or image.width * image.height > self.max_pixels:
            image = image.resize(self._view_size(image.size), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": url}}

    def _schema(self, tool: Callable) -> dict:
        schema = get_json_schema(tool)
        del schema["function"]["return"]  # not OpenAI's
        box = schema["function"]["parameters"]["properties"].get("bbox_2d")
        if box and self.frame == "box_view":
            box["description"] = "[x1, y1, x2, y2], in pixels of that image."
        return schema


def written(message: dict) -> str:
    """What the model wrote, put together again if the server took it apart; bounded, one turn only.

    >>> call = {"function": {"name": "zoom", "arguments": '{"a": 1}'}}
    >>> written({"reasoning_content": "Hm.", "content": None, "tool_calls": [call]})
    '<think>Hm.</think><tool_call>{"name": "zoom", "arguments": {"a": 1}}</tool_call>'
    """
    thought = message.get("reasoning_content") or message.get("reasoning")
    text = f"<think>{thought}</think>" if isinstance(thought, str) else ""
    if isinstance(message.get("content"), str):
        text += message["content"]
    calls = message.get("tool_calls")
    for call in calls[:MAX_CALLS] if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            arguments = function.get("arguments")
            with suppress(ValueError, RecursionError, TypeError):  # the tool says what is wrong
                arguments = json.loads(arguments)
            with suppress(RecursionError):
                call = json.dumps({"name": function.get("name"), "arguments": arguments})
                text += f"<tool_call>{call}</tool_call>"
    # A lone surrogate is valid in JSON, but no file can hold it.
    text = text[:MAX_REPLY_CHARS].encode("utf-8", "replace").decode()
    for token in (*prompts.RESERVED_TOKENS, prompts.TURN_END):
        text = text.split(token)[0]  # a model that goes on in the user's name is cut off there
    return text


def rollout_to_file(
    samples: Sequence[dict],
    policy: Policy,
    path: str | Path,
    tool: str = "on",
    workers: int = 8,
    progress: bool = True,
    judge: Judge | None = None,
) -> list[Trajectory]:
    """`rollout` for a policy that may be cut off: each episode is written as soon as it ends.

    Called again after a stop, it plays only what the file lacks.

    Args:
        samples: rows of a data set in our schema, each with an id of its own.
        policy: who replies, to several threads at a time: a served model.
        path: JSONL file to write or to complete.
        tool: "on", "off" or "blank", see `rollout`.
        workers: episodes that run side by side.
        progress: whether to show a bar.
        judge: see `rollout`; asked by several threads at a time.

    Returns:
        The episodes in the order of the samples, without images.

    Raises:
        ValueError: if two samples share an id, or the file holds episodes of other samples.
    """
    path, lock = Path(path), Lock()
    ids = [samples[i]["id"] for i in range(len(samples))]
    done = {t.sample["id"] for t in _complete_lines(path)}
    if len(set(ids)) < len(ids):
        raise ValueError("the samples need an id each; some share one")
    if stray := done - set(ids):
        raise ValueError(
            f"{path} holds episodes of other samples ({min(stray)}); choose another file"
        )
    bar = tqdm(
        total=len(ids), initial=len(done), desc=f"rollout, tool {tool}", disable=not progress
    )

    def play(i: int) -> None:
        (episode,) = rollout([samples[i]], policy, tool, progress=False, judge=judge)
        with lock:
            file.write(jsonl_line(episode))
            file.flush()
            bar.update()

    with path.open("a", encoding="utf-8") as file, bar, ThreadPoolExecutor(workers) as pool:
        try:
            left = [pool.submit(play, i) for i, id in enumerate(ids) if id not in done]
            for future in as_completed(left):
                future.result()
        finally:  # what runs may end and is written; what waits is left for the next time
            pool.shutdown(cancel_futures=True)
    order = {id: i for i, id in enumerate(ids)}
    return sorted(read_jsonl(path), key=lambda t: order[t.sample["id"]])


def _complete_lines(path: Path) -> list[Trajectory]:
    """The episodes in a file, after cutting off a last line that a kill left half written."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        os.truncate(path, len(whole))
    return read_jsonl(path)
