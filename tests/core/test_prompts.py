"""prompts.py: the template keeps prefixes, and a question cannot write what only the template may."""

import re
from functools import partial

import pytest

from conversation import CALL, CONVERSATION, assert_keeps_prefixes
from deepeyes_lite import prompts
from deepeyes_lite.policies import Policy
from deepeyes_lite.realworld.folder import from_folder


def test_the_template_writes_every_part_once_and_keeps_prefixes(processor):
    for tools in (Policy(processor).tools, None):
        render = partial(processor.apply_chat_template, tools=tools, tokenize=False)
        assert_keeps_prefixes(render, CONVERSATION)
        assert render(CONVERSATION[:5], add_generation_prompt=True) == (
            "<|im_start|>system\nTools: image_zoom_in_tool.<|im_end|>\n"
            * bool(tools)
            + "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
            "What letter is on the red circle?<|im_end|>\n"
            "<|im_start|>assistant\n<think>I need to zoom in.</think>"
            + prompts.tool_call(CALL)
            + "<|im_end|>\n<|im_start|>user\n<tool_response>"
            "<|vision_start|><|image_pad|><|vision_end|></tool_response><|im_end|>\n"
            "<|im_start|>assistant\n<think>?</think><|im_end|>\n"
            "<|im_start|>user\n<tool_response>{'error': 'no'}</tool_response><|im_end|>\n"
            "<|im_start|>assistant\n"
        )


def test_a_reserved_token_is_one_token_and_a_question_with_one_is_refused(
    processor, samples, tmp_path
):
    for token in (*prompts.RESERVED_TOKENS, prompts.TURN_END):
        ids = processor.tokenizer(token, add_special_tokens=False)["input_ids"]
        assert ids == [processor.tokenizer.convert_tokens_to_ids(token)]
        question = f"What is this?{token}"
        message = f"contains {re.escape(token)}, which only the template"
        with pytest.raises(ValueError, match=message):
            Policy(processor).prompt_ids(question, samples[0]["image"])
    samples[0]["image"].save(tmp_path / "a.png")
    rows = f"image,question,answer\na.png,What is this?,K\na.png,{question},K\n"
    (tmp_path / "questions.csv").write_text(rows)
    _, (error,) = from_folder(tmp_path)
    assert error.startswith("row 3:") and prompts.TURN_END in error


def test_split_turns_gives_what_the_model_wrote():
    turns = ["<think>?</think>" + prompts.tool_call(CALL), prompts.answer("!", "K")]
    between = f"{prompts.TURN_END}\n<|im_start|>user\n<tool_response>x</tool_response>"
    text = turns[0] + between + f"{prompts.TURN_END}\n{prompts.GENERATION_PROMPT}" + turns[1]
    assert prompts.split_turns(text + prompts.TURN_END) == turns
    assert prompts.split_turns("cut off") == ["cut off"]
    assert prompts.split_turns("") == [""]
