"""Our zoom and our prompts for verl 0.9, which verl_grpo.yaml names; run in verl's own environment.

The tool, its frame and its schema are those of `models.tool_of`, the prompt is that of our own trainer: a
question and what the family asks for after it. The chat template writes the schema, once.
"""

from weakref import WeakKeyDictionary

from transformers import AutoProcessor
from transformers.utils import get_json_schema
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.utils.dataset.rl_dataset import RLHFDataset

from deepeyes_lite.models import spec_of, tool_of
from deepeyes_lite.realworld.verl_reward import VISUAL
from deepeyes_lite.tools import answer_call, images_and_texts, methods


class Zoom(BaseTool):
    """The zoom as a tool of verl; gives a crop 1 and a refusal -1, for `verl_reward.compute_score`."""

    def __init__(self, config: dict, tool_schema=None):
        """Ask the processor of ``config["model"]`` for the frame of its boxes."""
        self.new_zoom = tool_of(AutoProcessor.from_pretrained(config["model"]))
        self.zooms = WeakKeyDictionary()  # an episode -> its tool, gone with the episode
        super().__init__(config, tool_schema)

    def get_openai_tool_schema(self) -> OpenAIFunctionToolSchema:
        """The schema that our own trainer shows."""
        return OpenAIFunctionToolSchema.model_validate(get_json_schema(methods(self.new_zoom())[0]))

    async def execute(self, instance_id: str, parameters: dict, agent_data=None, **_):
        """Answer a call with a crop, or with what is wrong with it."""
        zoom = self.zooms.get(agent_data)
        if zoom is None:
            zoom = self.zooms[agent_data] = self.new_zoom(agent_data.image_data[0])
        crops, texts = images_and_texts(
            [answer_call(zoom, {"name": self.name, "arguments": parameters})]
        )
        if crops:
            return ToolResponse(image=crops), 1.0, {}
        return ToolResponse(text="\n".join(texts)), -1.0, {}


class Questions(RLHFDataset):
    """DeepEyes' parquet with our prompts; rows without a tool are asked in a single turn."""

    def _build_messages(self, example: dict, key: str) -> list[dict]:
        question = (example.get("extra_info") or {}).get("question")
        if example["data_source"] in VISUAL and question:
            text = f"<image>{question}{spec_of(self.processor).suffix[True]}"
            example[key] = [{"role": "user", "content": text}]
        return super()._build_messages(example, key)

    def __getitem__(self, item: int) -> dict:
        row = super().__getitem__(item)
        tool = row["data_source"] in VISUAL
        return row | {"agent_name": "tool_agent" if tool else "single_turn_agent"}
