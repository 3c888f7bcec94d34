"""Our zoom, prompts and reward for ms-swift 4, whose ``--external_plugins`` takes this file.

The scheduler ``deepeyes_lite`` opens an episode with our trainer's prompt, reads a reply with
`prompts.read_reply`, answers its call with the tool of `models.tool_of`, and keeps what the reward
``deepeyes_lite`` needs: swift hands a reward the last turn as text and the others as token ids.
"""

import base64
import io
from pathlib import Path

from PIL import Image
from qwen_vl_utils import vision_process
from swift.rewards import ORM, orms
from swift.rollout.multi_turn import MultiTurnScheduler, multi_turns
from swift.template.templates.qwen import Qwen2VLTemplate
from transformers.utils import get_json_schema
from transformers.utils.chat_template_utils import render_jinja_template

from deepeyes_lite import prompts
from deepeyes_lite.models import spec_of, tool_of, visual_token
from deepeyes_lite.realworld.verl_reward import VISUAL, compute_score
from deepeyes_lite.tools import MAX_CALLS, answer_call, images_and_texts, methods

# --- what swift writes down of Qwen's checkpoints, and a processor knows better ---------------------

# Token ids of placeholders, which tiny-eyes has others of.
Qwen2VLTemplate.image_token_id = property(lambda self: self.processor.image_token_id)
Qwen2VLTemplate.video_token_id = property(lambda self: self.processor.video_token_id)
_init_env_args = Qwen2VLTemplate.init_env_args


def _init_budget(template) -> None:
    """Views as large as the processor's settings say; swift asks the environment alone."""
    _init_env_args(template)
    size, area = template.processor.image_processor.size, visual_token(template.processor) ** 2
    vision_process.IMAGE_MIN_TOKEN_NUM = size["shortest_edge"] // area
    vision_process.IMAGE_MAX_TOKEN_NUM = size["longest_edge"] // area


Qwen2VLTemplate.init_env_args = _init_budget


# --- the episode ------------------------------------------------------------------------------------


class Zoom(MultiTurnScheduler):
    """Our rollout loop in swift's: what a turn is answered with, and when an episode ends."""

    def __init__(self, *args, max_turns: int | None = None, **kwargs):
        """Take what swift gives; an episode has six calls and an answer, if nothing else is said."""
        super().__init__(*args, max_turns=max_turns or MAX_CALLS + 1, **kwargs)

    @property
    def processor(self):
        """The processor of the model, in a trainer or in a server."""
        return (self._template or self.infer_engine.template).processor

    def _rendered(self, messages: list[dict], **options) -> str:
        """Messages as the family's chat template writes them."""
        template = spec_of(self.processor).chat_template or self.processor.chat_template
        (text,), _ = render_jinja_template([messages], chat_template=template, **options)
        return text

    async def on_trajectory_start(self, requests: list) -> None:
        """Give a question our trainer's prompt, and the tool's schema once, in the model's frame."""
        new_zoom = tool_of(self.processor)
        schema = get_json_schema(methods(new_zoom())[0])
        question = [{"role": "user", "content": ""}]
        opening = self._rendered(question, tools=[schema]).split(prompts.TURN_END)[0]
        for request in requests:
            row = request.data_dict
            if row.get("data_source") not in VISUAL:
                continue
            request.episode = {
                "turns": [],
                "tool_rewards": [],
                "zoom": new_zoom(_opened(request.images[0])),
            }
            text = row["extra_info"]["question"] + spec_of(self.processor).suffix[True]
            request.messages = [
                {"role": "system", "content": opening.removeprefix("<|im_start|>system\n")},
                {"role": "user", "content": f"<image>{text}"},
            ]

    async def on_turn_end(self, infer_request, response_choice, current_turn: int) -> dict:
        """Keep the text of the turn, and tell the reward of all so far."""
        episode = getattr(infer_request, "episode", None)
        if episode is None:
            return {}
        text = str(infer_request.messages[-1]["content"]).split(prompts.TURN_END)[0]
        episode["turns"].append(text)
        return {"rollout_infos": {n: list(episode[n]) for n in ("turns", "tool_rewards")}}

    def check_finished(self, infer_request, response_choice, current_turn: int) -> bool:
        """Whether the reply answers, or does not call."""
        finished = super().check_finished(infer_request, response_choice, current_turn)
        episode = getattr(infer_request, "episode", None)
        return finished or not episode or not prompts.read_reply(episode["turns"][-1]).calls

    def step(self, infer_request, response_choice, current_turn: int) -> dict:
        """Append the crop, or what is wrong with the call."""
        episode = infer_request.episode
        (call,) = prompts.read_reply(episode["turns"][-1]).calls
        content = answer_call(episode["zoom"], call)
        crops, _ = images_and_texts([content])
        turn = {"role": "assistant", "content": "@@"}
        asked = [{"role": "user", "content": ""}, turn, {"role": "tool", "content": content}]
        written = self._rendered(asked).split("@@" + prompts.TURN_END)[1].strip()
        role, text = written.removeprefix("<|im_start|>").split("\n", 1)
        text = text.removesuffix(prompts.TURN_END).replace(prompts.IMAGE, "<image>")
        infer_request.messages.append({"role": role, "content": text})
        infer_request.images += crops
        episode["tool_rewards"].append(1.0 if crops else -1.0)
        return {"infer_request": infer_request, "rollout_infos": {"images": infer_request.images}}


def _opened(image) -> Image.Image:
    """An image as swift hands it on: opened, as bytes, a path, or base64."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, dict):
        image = image.get("bytes") or image["path"]
    if isinstance(image, str) and not Path(image[:255]).exists():
        image = base64.b64decode(image.rpartition(",")[2])
    return Image.open(io.BytesIO(image) if isinstance(image, bytes) else image).convert("RGB")


class Reward(ORM):
    """`verl_reward.compute_score` over the whole episode."""

    def __call__(
        self, completions, data_source, reward_model, extra_info, rollout_infos=None, **_
    ) -> list[float]:
        """The rewards of a batch; every argument is a list with a value an episode."""
        rewards = []
        infos = [info or {} for info in rollout_infos or [None] * len(completions)]
        for text, source, truth, extra, info in zip(
            completions, data_source, reward_model, extra_info, infos, strict=True
        ):
            paid = info.get("tool_rewards")
            # What stood between the turns is counted already.
            text = prompts.GENERATION_PROMPT.join(info.get("turns") or [text])
            extra = {**extra, **({} if paid is None else {"tool_rewards": paid})}
            rewards.append(compute_score(source, text, truth["ground_truth"], extra))
        return rewards


multi_turns["deepeyes_lite"] = Zoom
orms["deepeyes_lite"] = Reward
