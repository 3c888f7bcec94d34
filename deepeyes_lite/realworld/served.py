"""A served model plays the episode: vLLM, SGLang, `transformers serve`, whatever speaks as OpenAI does.

A server has text only: no token ids, no loss mask, nothing to train on. Whether it parses thoughts and
tool calls itself or leaves them in the text, the episode is kept as the text that the model wrote, and
sent back as that text. So a vLLM without any parser will do, and with the prompt "deepeyes" a template
without a tool section (Qwen2.5-VL's), too.
"""

import base64
import io
import json
import os
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from threading import Event, Lock, Timer
from urllib.parse import urlsplit

import openai
from PIL import Image
from tqdm.auto import tqdm
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template

from deepeyes_lite import prompts
from deepeyes_lite.boxes import View
from deepeyes_lite.models import QWEN2_5_VL, QWEN3_VL, load_processor, spec_of, view_of
from deepeyes_lite.policies import Policy
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tools import MAX_CALLS, ViewZoomTool, ZoomTool, methods
from deepeyes_lite.trajectories import Trajectory, Turn, jsonl_line, read_jsonl
from deepeyes_lite.verifiers import Judge

# Environment variables; never OPENAI_API_KEY, which is for one server only. The judge is another host.
KEY, JUDGE_KEY = "DEEPEYES_API_KEY", "DEEPEYES_JUDGE_KEY"
MAX_BODY_BYTES = 2_000_000  # of an answer
MAX_REPLY_CHARS = 40_000  # of a turn; 10,000 tokens, DeepEyes' own bound
MAX_TOKENS = 2048  # of a turn, unless somebody asks for more
MAX_FAILED = 10  # conversations in a row that a server may answer with 5xx
FRAMES = {"tools": "box_1000", "deepeyes": "box_view"}  # what the models of a prompt write
MIN_PIXELS, MAX_PIXELS = 56 * 56, 4096 * 28 * 28  # of a view: Qwen2.5-VL's least, and 4096 tokens

# The schema of DeepEyes' own tool, as its weights know it (public code, Apache-2.0, ``eval/eval_vstar.py``),
# with one slip mended: theirs requires "bbox", a property that does not exist.
_SCHEMA = (
    '{"type":"function","function":{"name":"image_zoom_in_tool","description":"Zoom in on a specific '
    "region of an image by cropping it based on a bounding box (bbox) and an optional object label."
    '","parameters":{"type":"object","properties":{"bbox_2d":{"type":"array","items":{"type":"number"},'
    '"minItems":4,"maxItems":4,"description":"The bounding box of the region to zoom in, as [x1, y1, '
    "x2, y2], where (x1, y1) is the top-left corner and (x2, y2) is the bottom-right corner."
    '"},"label":{"type":"string","description":"The name or label of the object in the specified '
    'bounding box (optional)."}},"required":["bbox_2d"]}}}'
)


def deepeyes_system(tools: bool = True) -> str:
    """DeepEyes' system prompt: that of the template that Qwen2.5-VL gets here, around the schema above.

    Args:
        tools: whether it offers the tool.
    """
    tool = json.loads(_SCHEMA)
    (text,), _ = render_jinja_template(
        [[{"role": "user", "content": ""}]],
        [tool] if tools else None,
        chat_template=prompts.DEEPEYES_TEMPLATE,
    )
    system = text.split("<|im_start|>system\n")[1].split(prompts.TURN_END)[0]
    return system.replace(json.dumps(tool), _SCHEMA)


class EndpointError(RuntimeError):
    """The server cannot be used as asked; the message says what to do."""


class ConversationError(EndpointError):
    """This conversation cannot go on, another may: it outgrew the context, or the server fails on it."""


class _BoundedClient(openai.DefaultHttpxClient):
    """Bounds an answer in bytes and in time: the stock client takes as much as a broken server sends.

    The stock client's time-out starts anew with every byte. Here a watchdog ends the connection, so each
    request has one of its own; looking up the server's name is the system's and has no bound.
    """

    def __init__(self, seconds: float, **options):
        super().__init__(**options)
        self.seconds = seconds

    def send(self, request, **options):
        sockets: list[socket.socket] = []

        def trace(event: str, info: dict) -> None:
            if event.endswith("connect_tcp.complete"):  # a copy, for TLS takes the socket over
                sockets.append(info["return_value"].get_extra_info("socket").dup())

        request.extensions = {**request.extensions, "trace": trace}
        request.headers["Connection"] = "close"
        late, body = Event(), b""
        watchdog = Timer(self.seconds, lambda: (late.set(), *map(_shut, sockets)))
        watchdog.daemon = True
        watchdog.start()
        try:
            with closing(super().send(request, **options | {"stream": True})) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise ConversationError(
                            f"{request.url} sends more than {MAX_BODY_BYTES} bytes"
                        )
        except Exception:
            if not late.is_set():
                raise
        finally:
            watchdog.cancel()
            for copy in sockets:
                copy.close()
        if late.is_set():  # httpx or httpx2, whichever openai runs on: it asks again
            raise sys.modules[type(request).__module__.partition(".")[0]].ReadTimeout("timed out")
        headers = [item for item in response.headers.items() if item[0] != "content-encoding"]
        return type(response)(response.status_code, headers=headers, content=body, request=request)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended meanwhile
        connection.shutdown(socket.SHUT_RDWR)


class Endpoint:
    """A served model, asked through the openai client, with plain words for what goes wrong."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        key: str = KEY,
    ):
        """Name the server.

        Args:
            url: address, with or without ``/v1``.
            model: name of the model; None where the server has one only.
            timeout: seconds to wait for the whole of an answer, at each attempt.
            retries: further attempts where the server is busy, broken or away.
            key: environment variable that holds the key; a judge has another one, for it is another host.

        Raises:
            ValueError: for an address that is none, or a key with odd characters.
            EndpointError: if no model was named and the server does not serve just one.
        """
        parts = urlsplit(url)
        odd = parts.scheme not in ("http", "https") or not parts.hostname or parts.username
        if odd or parts.query or parts.fragment:
            raise ValueError(
                "an endpoint's address is like http://localhost:8000/v1, without a password, ? or #; "
                f"got {url.rpartition('@')[2].partition('?')[0].partition('#')[0]!r}"
            )
        # Without a key of ours, the client would take OPENAI_API_KEY.
        self._key, self._key_name = os.environ.get(key, "").strip() or "EMPTY", key
        if not self._key.isascii() or not self._key.isprintable():
            raise ValueError(f"the key in {key} has odd characters")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"
        no_proxy = parts.hostname == "localhost"
        with suppress(ValueError):  # a name
            no_proxy = ip_address(parts.hostname).is_loopback
        self._client = openai.OpenAI(
            base_url=self.url,
            api_key=self._key,
            timeout=timeout,
            max_retries=retries,
            http_client=_BoundedClient(timeout, trust_env=not no_proxy, follow_redirects=False),
        )
        names = [model] if model else self.models()
        if len(names) != 1:
            listed = f"lists {', '.join(names)}" if names else "lists none, or no server runs there"
            raise EndpointError(f"name a model; {self.url}/models {listed}")
        self.model = names[0]
        self._extra: dict = {}  # what a vLLM without a parser has to be told
        self._failed = 0  # conversations in a row that were answered with 5xx

    def models(self) -> list[str]:
        """Names of the served models; empty if the server does not say."""
        try:
            rows = json.loads(self._client.models.with_raw_response.list().content)["data"]
            return [self._reason(row["id"])[:200] for row in rows[:20]]
        except (openai.OpenAIError, RuntimeError, ValueError, TypeError, LookupError):
            return []

    def complete(self, messages: list[dict], **options) -> dict:
        """The assistant message that continues a conversation.

        A vLLM without a parser refuses to choose among tools. It is asked again with the choice "none",
        by which it offers the tools all the same and leaves the calls in the text. No other server is sent
        that: SGLang then drops the tools from the prompt.

        Args:
            messages: in OpenAI's form.
            **options: further fields of the request, such as ``temperature``.

        Returns:
            The message as the server sends it, and beside it ``finish_reason`` and ``prompt_tokens``, each
            None if the server does not say.

        Raises:
            ConversationError: if this conversation cannot be continued.
            EndpointError: if the server cannot be reached or refuses.
        """
        ask, extra = self._client.chat.completions.with_raw_response.create, self._extra
        choice = {"tool_choice": "none"} if extra and "tools" in options else {}
        try:
            body = ask(model=self.model, messages=messages, **options, **choice, **extra).content
        except openai.APIError as error:
            status = getattr(error, "status_code", 0)
            reason = self._reason(error.body or error.__cause__ or error)
            if "--enable-auto-tool-choice" in reason and "tools" in options and not extra:
                self._extra = {"extra_body": {"skip_special_tokens": False}}
                return self.complete(messages, **options)
            self._failed += status >= 500
            raise self._explained(status, reason) from None
        self._failed = 0
        try:
            # What a server repeats of the request ends in records and pages.
            answer = json.loads(self._masked(json.dumps(json.loads(body), ensure_ascii=False)))
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            tokens = {"prompt_tokens": usage.get("prompt_tokens")}
            return {**choice["message"], "finish_reason": choice.get("finish_reason"), **tokens}
        except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
            said = self._reason(body.decode("utf-8", "replace"))
            raise EndpointError(f"{self.url} is no OpenAI server: it sends {said!r}") from None

    def _reason(self, body: object) -> str:
        """A server's explanation as one short line, without the key."""
        for name in ("error", "message", "detail"):
            body = body.get(name, body) if isinstance(body, dict) else body
        text = self._masked(str(body))[:300]
        return "".join(c if c.isprintable() else " " for c in text).strip()

    def _masked(self, text: str) -> str:
        """A text without the key; less than six characters are a word, such as EMPTY, and no secret."""
        return text.replace(self._key, "…") if len(self._key) > 5 else text

    def _explained(self, status: int, reason: str) -> EndpointError:
        too_long = ("context", "too long", "maximum", "max_model_len")  # vLLM, SGLang, OpenAI
        if status in (400, 413, 422) and any(word in reason.lower() for word in too_long):
            return ConversationError(
                f"the conversation is too long for {self.model} ({reason}); "
                "lower max_tokens or max_pixels, or serve the model with a longer context"
            )
        if not status:
            said = f"cannot be reached ({reason}); is it running, and the timeout long enough?"
        elif status in (401, 403):
            said = (
                f"refuses the key ({reason}); put it into the environment variable {self._key_name}"
            )
        elif status == 404 or (status == 400 and f"{self.model}'" in reason.replace("`", "'")):
            names = ", ".join(self.models()) or "no list"
            said = f"does not serve {self.model!r} ({reason}); it serves: {names}"
        else:
            said = f"answers {status} ({reason})"
        if status >= 500 and self._failed < MAX_FAILED:
            return ConversationError(f"{self.url} {said}")
        return EndpointError(f"{self.url} {said}")


class ServedPolicy(Policy):
    """A served model plays the episode.

    Images are sent as PNG data URLs. Where the model writes ``box_view``, they are resized to the view
    here, by the rule of its own image processor, so that the numbers that it gives are pixels of an image
    whose size is known (DeepEyes issue #141 is about one whose size was not). This holds as long as the
    server's own pixel budget is not smaller than ``max_pixels``.
    """

    writes_ids = False

    def __init__(
        self,
        endpoint: Endpoint,
        prompt: str = "tools",
        frame: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = MAX_TOKENS,
        max_pixels: int = MAX_PIXELS,
        tools: bool = True,
        environment: type[ZoomTool] | None = None,
        concurrency: int = 8,
    ):
        """Say who plays, and what is offered.

        Args:
            endpoint: the served model.
            prompt: "tools" (the server's template gets the tool's schema) or "deepeyes" (DeepEyes' own).
            frame: of the model's boxes, "box_view" or "box_1000"; None for the prompt's (``FRAMES``).
            temperature: of the sampling.
            max_tokens: of a turn.
            max_pixels: greatest area of a view.
            tools: whether the prompt offers the tool.
            environment: a class with tools of one's own, a subclass of `ZoomTool`, or of `ViewZoomTool`
                for ``box_view``; None for the zoom alone.
            concurrency: requests at a time.

        Raises:
            ValueError: for an unknown prompt or frame, or an environment that fits neither.
        """
        frame = frame or FRAMES.get(prompt)
        if prompt not in FRAMES or frame not in FRAMES.values():
            raise ValueError(
                f"prompt must be one of {', '.join(FRAMES)}, and frame must be one of "
                f"{', '.join(FRAMES.values())}; got {prompt!r} and {frame!r}"
            )
        if environment and prompt == "deepeyes":
            raise ValueError("the prompt 'deepeyes' knows the zoom alone; offer tools with 'tools'")
        kind = environment or (ViewZoomTool if frame == "box_view" else ZoomTool)
        if issubclass(kind, ViewZoomTool) != (frame == "box_view"):
            raise ValueError(f"{kind.__name__} does not take the {frame} that the model writes")
        self.spec = QWEN2_5_VL if frame == "box_view" else QWEN3_VL
        self.view = View(MIN_PIXELS, max_pixels, self.spec.factor)
        # A model that is served from a folder here, such as tiny-eyes, says itself what it sees.
        if (Path(endpoint.model) / "config.json").exists():
            processor = load_processor(endpoint.model)
            self.spec = spec_of(processor)
            self.view = view_of(processor) if self.spec.square else self.view
        self.tool_class = kind if self.spec.square else partial(kind, view=self.view)
        self.tools = methods(self.tool_class()) if tools else None
        self.endpoint, self.prompt, self.frame = endpoint, prompt, frame
        self.max_pixels, self.concurrency = max_pixels, concurrency
        self.temperature, self.max_tokens = temperature, max_tokens

    def prompt_ids(self, question: str, image: Image.Image) -> list[int]:
        """None: tokens are the server's affair. A question with markup is refused all the same."""
        prompts.user_message(question)
        return []

    def observation_ids(self, contents: list[list[dict] | str]) -> list[int]:
        """None, see `prompt_ids`."""
        return []

    def reply(self, trajectories: list[Trajectory], allow_calls: bool = True) -> list[Turn]:
        """The next turn of every conversation; one that cannot go on gets an empty one and why.

        Where no tool is offered, a reply is cut off where a call begins.

        Raises:
            EndpointError: if the server cannot be reached, refuses, or does not see the images.
        """
        allow_calls = allow_calls and bool(self.tools)
        options = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        if allow_calls and self.prompt == "tools":
            options["tools"] = [get_json_schema(tool) for tool in self.tools]
            for schema in options["tools"]:
                del schema["function"]["return"]  # not OpenAI's

        def next_turn(trajectory: Trajectory) -> Turn:
            try:
                message = self.endpoint.complete(self.messages(trajectory, allow_calls), **options)
            except ConversationError as error:
                return Turn("", errors=[str(error)])
            self._check_sight(trajectory.images, message["prompt_tokens"])
            text = written(message)
            text = text if allow_calls else text.split("<tool_call>")[0]
            return Turn(text, truncated=message["finish_reason"] == "length")

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(next_turn, trajectories))

    def messages(self, trajectory: Trajectory, allow_calls: bool = True) -> list[dict]:
        """The conversation so far in OpenAI's form; the format is asked for as of a local model."""
        offered = allow_calls and bool(self.tools)
        images = iter(trajectory.images)
        question = _text(trajectory.sample["question"] + self.spec.suffix[offered])
        messages = [{"role": "user", "content": [self._image(next(images)), question]}]
        again = ""
        if self.prompt == "deepeyes":
            messages.insert(0, {"role": "system", "content": deepeyes_system(offered)})
            again = self.spec.suffix[offered]  # after every crop, too
        for turn in trajectory.turns:
            parts = [self._image(next(images)) for _ in turn.boxes_px] + [*map(_text, turn.errors)]
            observation = []
            for part in parts:
                observation += [_text("<tool_response>"), part, _text(f"{again}</tool_response>")]
            messages.append({"role": "assistant", "content": turn.text})
            messages.append({"role": "user", "content": observation})
        return messages

    def text(self, reply: Turn) -> str:
        """What the model wrote in a turn."""
        return reply.text

    def read_answer(self, turn: Turn) -> str | None:
        """The answer in the last turn: between its tags or, where it has none, what follows the thought.

        A reply that calls, or was cut off before its answer, has none.
        """
        reply = prompts.read_reply(turn.text)
        rest = turn.text.rpartition("</think>")[2].strip()
        if reply.answer is not None or reply.calls or turn.truncated or "<think>" in rest:
            return reply.answer
        return rest.removeprefix("<answer>").strip() or None

    def _check_sight(self, images: list[Image.Image], prompt_tokens: object) -> None:
        """Stop where the prompt that the server saw is shorter than its images are."""
        views = [self.view(image.size) for image in images]
        tokens = sum(width * height for width, height in views) // self.view.factor**2
        if isinstance(prompt_tokens, int) and 0 < prompt_tokens < tokens:
            raise EndpointError(
                f"the server does not see the image: {self.endpoint.url} counts {prompt_tokens} tokens in a "
                f"prompt whose images alone have {tokens}; serve the model with its own processor "
                "(`transformers serve` needs torchvision), or lower max_pixels to the server's own budget"
            )

    def _image(self, image: Image.Image) -> dict:
        """A view as a data URL: lossless, so that the server sees what a local model would see."""
        if self.frame == "box_view" or image.width * image.height > self.max_pixels:
            image = image.resize(self.view(image.size), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1)
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": url}}


def _text(text: str) -> dict:
    return {"type": "text", "text": text}


def text_of(content: object) -> str:
    """The text of a message's content: a string, or a list of parts.

    >>> text_of([{"type": "text", "text": "It is "}, {"type": "text", "text": "K."}])
    'It is K.'
    """
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def written(message: dict) -> str:
    """What the model wrote, put together again if the server took it apart; bounded, one turn only.

    >>> call = {"function": {"name": "zoom", "arguments": '{"a": 1}'}}
    >>> written({"reasoning_content": "Hm.", "content": None, "tool_calls": [call]})
    '<think>Hm.</think><tool_call>{"name": "zoom", "arguments": {"a": 1}}</tool_call>'
    """
    thought = message.get("reasoning_content") or message.get("reasoning")
    text = f"<think>{thought}</think>" if isinstance(thought, str) else ""
    text += text_of(message.get("content"))
    calls = message.get("tool_calls")
    for call in calls[:MAX_CALLS] if isinstance(calls, list) else []:
        with suppress(AttributeError, RecursionError):  # what is no call is left out
            name, arguments = call.get("function").get("name"), call["function"].get("arguments")
            with suppress(ValueError, TypeError):  # the tool says what is wrong
                arguments = json.loads(arguments)
            call = json.dumps({"name": name, "arguments": arguments})
            text += f"<tool_call>{call}</tool_call>"
    # A lone surrogate is valid in JSON, but no file can hold it.
    text = text[:MAX_REPLY_CHARS].encode("utf-8", "replace").decode()
    for token in (*prompts.RESERVED_TOKENS, prompts.TURN_END):
        text = text.split(token)[0]  # a model that goes on in the user's name is cut off there
    return text


def rollout_to_file(
    samples: Sequence[dict],
    policy: ServedPolicy,
    path: str | Path,
    tool: str = "on",
    judge: Judge | None = None,
) -> list[Trajectory]:
    """`rollout` for a policy that may be cut off: each episode is written as soon as it ends.

    Called again after a stop, it plays only what the file lacks.

    Args:
        samples: rows of a data set in our schema, each with an id of its own.
        policy: who replies; as many episodes run side by side as it may send requests.
        path: JSONL file to write or to complete, one episode a line.
        tool: "on", "off" (the server is not told of the tool) or "blank", see `rollout`.
        judge: see `rollout`; asked by several threads at a time.

    Returns:
        The episodes in the order of the samples, without images.

    Raises:
        ValueError: if two samples share an id, or the file holds episodes of other samples.
        EndpointError: if the server cannot be reached or refuses; what was played is in the file.
    """
    path, lock = Path(path), Lock()
    places = {sample["id"]: i for i, sample in enumerate(samples)}
    if len(places) < len(samples):
        raise ValueError("the samples need an id each; some share one")
    path.touch()
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)  # a kill may have left half a line
    done = {episode.sample["id"] for episode in read_jsonl(path)}
    if stray := done - set(places):
        raise ValueError(
            f"{path} holds episodes of other samples ({min(stray)}); choose another file"
        )

    def play(i: int) -> None:
        (episode,) = rollout([samples[i]], policy, tool, progress=False, judge=judge)
        with lock:
            file.write(jsonl_line(episode))
            file.flush()

    with path.open("a", encoding="utf-8") as file, ThreadPoolExecutor(policy.concurrency) as pool:
        futures = [pool.submit(play, i) for id, i in places.items() if id not in done]
        try:
            for future in tqdm(as_completed(futures), f"rollout, tool {tool}", len(futures)):
                future.result()
        finally:  # what runs may end and is written; what waits is left for the next time
            pool.shutdown(cancel_futures=True)
    return sorted(read_jsonl(path), key=lambda episode: places[episode.sample["id"]])
