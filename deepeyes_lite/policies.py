"""Who continues the conversation: a local transformers model, a script, or an oracle.

A policy turns conversations into token ids and back with its processor, and continues a batch of them.
The prompts and observations it writes are, token for token, those of TRL's trainer; a test holds both
to it.
"""

from collections.abc import Callable, Sequence
from copy import copy

import torch
from PIL import Image
from transformers import LogitsProcessor

from deepeyes_lite import prompts
from deepeyes_lite.boxes import Box
from deepeyes_lite.fast import cache_vision
from deepeyes_lite.models import (
    TINY_EYES,
    completion_length,
    encode_box,
    spec_of,
    token_ids,
    tool_of,
)
from deepeyes_lite.tools import ZoomTool, images_and_texts, methods
from deepeyes_lite.trajectories import Trajectory, Turn


class Policy:
    """Token ids of prompts and observations, and the reading of replies.

    Attributes:
        tool_class: makes the tool of an episode, in the frame that the model speaks.
        max_completion_length: tokens of an episode after its prompt.
        batch_size: episodes that are rolled out side by side.
        writes_ids: whether replies are token ids, some of which can be forbidden or forced; a served model's
            are not.
    """

    writes_ids: bool = True
    tool_class: Callable[..., ZoomTool] = ZoomTool
    max_completion_length: int = TINY_EYES.max_completion_length
    batch_size: int = TINY_EYES.batch_size

    def __init__(self, processor, tools: bool = True, environment: type[ZoomTool] | None = None):
        """Read budgets and frame off a processor.

        Args:
            processor: of the model.
            tools: whether prompts offer the tool.
            environment: a class with tools of one's own; None for the zoom alone.
        """
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.spec = spec_of(processor)
        self.tool_class = tool_of(processor, environment)
        self.max_completion_length = completion_length(processor)
        self.batch_size = self.spec.batch_size
        # TRL and transformers make the schemas from the methods.
        self.tools = methods(self.tool_class()) if tools else None

    def without_tools(self) -> "Policy":
        """The same policy, whose prompts offer no tool."""
        policy = copy(self)
        policy.tools = None
        return policy

    @property
    def suffix(self) -> str:
        """What the family's prompts ask for after the question."""
        return self.spec.suffix[bool(self.tools)]

    def prompt_ids(self, question: str, image: Image.Image) -> list[int]:
        """Ids of the prompt: tool section, image, question, opening of the reply."""
        message = prompts.user_message(question, self.suffix)
        return self._ids(message, [image], tools=self.tools)

    def observation_ids(self, contents: list[list[dict]]) -> list[int]:
        """Ids between two turns: the tool's answers and the opening of the next reply."""
        messages = [{"role": "tool", "content": content} for content in contents]
        crops, _ = images_and_texts(contents)
        return self.tokenizer("\n", add_special_tokens=False)["input_ids"] + self._ids(
            messages, crops
        )

    def _ids(self, messages: list[dict], images: list[Image.Image], tools=None) -> list[int]:
        text = self.processor.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=False
        )
        placeholder = self.processor.image_token
        pieces = text.split(placeholder)
        if len(pieces) != len(images) + 1:
            raise ValueError(
                f"{len(images)} images, but {len(pieces) - 1} placeholders; "
                f"a question must not contain {placeholder!r}"
            )
        counts = [self._image_tokens(image) for image in images]
        expanded = [placeholder * n + piece for n, piece in zip(counts, pieces[1:])]
        text = "".join([pieces[0], *expanded])
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _image_tokens(self, image: Image.Image) -> int:
        processor = self.processor.image_processor
        patches = processor.get_number_of_image_patches(image.height, image.width, {})
        return patches // processor.merge_size**2

    def text(self, ids: Sequence[int]) -> str:
        """What the model wrote in a turn, special tokens included, end of turn cut off."""
        return prompts.split_turns(self.tokenizer.decode(ids, skip_special_tokens=False))[0]

    def calls(self, trajectory: Trajectory, ids: list[int]) -> list[dict]:
        """The call of a reply that is to be answered, if the prompt offers tools; see `read_reply`."""
        return prompts.read_reply(self.text(ids)).calls if self.tools else []

    def read_answer(self, turn: Turn) -> str | None:
        """The answer in the last turn of an episode, if there is one."""
        return prompts.read_reply(turn.text).answer

    def reply(self, trajectories: list[Trajectory], allow_calls: bool = True) -> list[list[int]]:
        """The next turn of every conversation, as token ids up to and with the end of turn.

        A policy without token ids (`realworld.served`) returns each reply as a `Turn`; its `text` takes
        one, and its `prompt_ids` and `observation_ids` are empty.

        Args:
            trajectories: unfinished episodes.
            allow_calls: False for the control in which no call can be opened.
        """
        raise NotImplementedError


class ScriptedPolicy(Policy):
    """Writes what it is told: for tests, and for taking one episode apart by hand."""

    def __init__(
        self,
        processor,
        script: dict[str, list[str]] | list[str],
        environment: type[ZoomTool] | None = None,
    ):
        """Take the script.

        Args:
            processor: of the model.
            script: the turns to write, for every sample or by sample id.
            environment: a class with tools of one's own; None for the zoom alone.
        """
        super().__init__(processor, environment=environment)
        self.script = script

    def reply(self, trajectories: list[Trajectory], allow_calls: bool = True) -> list[list[int]]:
        replies = []
        for trajectory in trajectories:
            script = self.script
            turns = script[trajectory.sample["id"]] if isinstance(script, dict) else script
            text = turns[len(trajectory.turns)] + prompts.TURN_END
            replies.append(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return replies


class LocalPolicy(Policy):
    """A transformers model on this machine, sampled as in training."""

    def __init__(
        self,
        model,
        processor,
        tools: bool = True,
        temperature: float = 1.0,
        max_new_tokens: int | None = None,
        environment: type[ZoomTool] | None = None,
    ):
        """Take a model.

        Args:
            model: a Qwen-VL model with or without adapters.
            processor: of the model.
            tools: whether prompts offer the tool.
            temperature: of the sampling; 0 takes the likeliest token (greedy).
            max_new_tokens: of a turn; None for the family's.
            environment: a class with tools of one's own; None for the zoom alone.
        """
        super().__init__(processor, tools, environment)
        self.model = model.eval()
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens or self.spec.max_new_tokens
        cache_vision(model)

    @torch.no_grad()
    def reply(self, trajectories: list[Trajectory], allow_calls: bool = True) -> list[list[int]]:
        rows = [t.prompt_ids + t.completion_ids for t in trajectories]
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        # (B, longest), left-padded
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        images = [image for t in trajectories for image in t.images]
        pixels = self.processor.image_processor(images=images, return_tensors="pt")
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self.processor.image_token_id).long(),
            **pixels,
        }
        forbidden = [*self.spec.reserved_tokens, *([] if allow_calls else ["<tool_call>"])]
        sampling = (
            {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
            if self.temperature > 0
            else {"do_sample": False}
        )
        output = self.model.generate(
            **{name: value.to(self.model.device) for name, value in inputs.items()},
            **sampling,
            repetition_penalty=1.0,  # Qwen2.5-VL's own settings have 1.05, which training has not
            max_new_tokens=self.max_new_tokens,
            suppress_tokens=token_ids(self.tokenizer, forbidden),
        )
        replies = output[:, longest:].tolist()  # (B, new tokens), right-padded
        end = self.tokenizer.eos_token_id
        return [row[: row.index(end) + 1] if end in row else row for row in replies]


class ForcedChoice(LogitsProcessor):
    """Makes some rows answer, or call, as soon as their thought ends: the thought stays the model's own.

    Whole tags are forced. A force that ended before the tag was evaded: the policy went on to the other one.

    Attributes:
        tags: the tag that a row has to write, by the number of the row.
        forced_at: for each row that wrote it, the places of its tokens in the completion.
    """

    END = "</think>"

    def __init__(self, tokenizer, tags: dict[int, str], prompt_length: int):
        """Take the rows.

        Args:
            tokenizer: of the model.
            tags: "<answer>" or "<tool_call>", by the number of the row.
            prompt_length: tokens of a prompt, padding included.
        """
        self.tokenizer, self.tags, self.start = tokenizer, tags, prompt_length
        self.forced_at: dict[int, range] = {}
        self._ids = {
            tag: tokenizer(tag, add_special_tokens=False)["input_ids"]
            for tag in ("<answer>", "<tool_call>")
        }

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        here = input_ids.size(1) - self.start
        for row, tag in self.tags.items():
            wanted = self._ids[tag]
            begun = self.forced_at.get(row)
            if begun is None:
                text = self.tokenizer.decode(input_ids[row, self.start :])
                if not text.rstrip().endswith(self.END):
                    # No way around the choice: neither the other tag, nor the end of the turn.
                    others = [ids[0] for name, ids in self._ids.items() if name != tag]
                    if tag not in text:
                        scores[row, [*others, self.tokenizer.eos_token_id]] = -torch.inf
                    continue
                begun = self.forced_at[row] = range(here, here + len(wanted))
            if here in begun:
                scores[row] = -torch.inf
                scores[row, wanted[here - begun.start]] = 0.0
        return scores


class OracleZoomPolicy(Policy):
    """Zooms to every target box, then lets another policy go on: what a perfect zoom would bring.

    The upper bound of an evaluation, and one half of the tool-benefit filter.
    """

    def __init__(self, policy: Policy, label_of: Callable[[dict, int], str] | None = None):
        """Take the policy that answers.

        Args:
            policy: who goes on; mostly it answers, but nothing keeps it from a call of its own.
            label_of: what the call says is in the box, from the sample and the number of the call; a small
                model knows calls by the name of a thing alone. None for "target".
        """
        super().__init__(policy.processor)
        self.policy = policy
        self.label_of = label_of or (lambda sample, number: "target")
        self.max_completion_length = policy.max_completion_length

    def reply(self, trajectories: list[Trajectory], allow_calls: bool = True) -> list[list[int]]:
        replies: list[list[int]] = []
        for trajectory in trajectories:
            left = trajectory.sample["boxes_px"][len(trajectory.turns) :]
            replies.append(self._call(left[0], trajectory) if left else [])
        done = [i for i, ids in enumerate(replies) if not ids]
        if done:
            answers = self.policy.reply([trajectories[i] for i in done], allow_calls)
            for i, ids in zip(done, answers):
                replies[i] = ids
        return replies

    def _call(self, box_px: Box, trajectory: Trajectory) -> list[int]:
        box = encode_box(self.processor, box_px, trajectory.images[0].size)
        label = self.label_of(trajectory.sample, len(trajectory.turns))
        call = prompts.tool_call({"bbox_2d": box, "label": label})
        text = f"<think>{prompts.ZOOM_THOUGHT}</think>{call}{prompts.TURN_END}"
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
