"""prompts.py: the template keeps prefixes, and pretraining shows the very tokens of the loop."""

import json
import random
import re

import pytest

from deepeyes_lite import prompts
from deepeyes_lite.policies import Policy
from deepeyes_lite.realworld.folder import from_folder
from deepeyes_lite.tinyworld.pretraining.lessons import (
    Images,
    draw,
    encode,
    long_sample,
    short_sample,
)

CALL = {"bbox_2d": [10, 20, 300, 400], "label": "red circle"}
CONVERSATION = [
    *prompts.user_message("What letter is on the red circle?"),
    {
        "role": "assistant",
        "content": "<think>I need to zoom in.</think>",
        "tool_calls": [{"type": "function", "function": {"name": prompts.ZOOM, "arguments": CALL}}],
    },
    {"role": "tool", "content": [{"type": "image"}]},
    {"role": "assistant", "content": "<think>?</think>", "tool_calls": []},
    {"role": "tool", "content": "{'error': 'no'}"},
    {"role": "assistant", "content": prompts.answer("I can read it.", "K")},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module")
def render(processor):
    def render(messages, tools=True, prompt=False):
        return processor.apply_chat_template(
            messages,
            tools=Policy(processor).tools if tools else None,
            add_generation_prompt=prompt,
            tokenize=False,
        )

    return render


@pytest.mark.parametrize("tools", [True, False])
def test_a_rendered_conversation_is_a_prefix_of_its_continuation(render, tools):
    texts = [render(CONVERSATION[:n], tools) for n in range(1, len(CONVERSATION) + 1)]
    for shorter, longer in zip(texts, texts[1:]):
        assert longer.startswith(shorter) and longer != shorter
    for n, message in enumerate(CONVERSATION):
        if message["role"] == "assistant":
            assert texts[n].startswith(render(CONVERSATION[:n], tools, prompt=True))


def test_the_template_writes_every_part_of_a_conversation_once(render):
    assert render(CONVERSATION[:5], prompt=True) == (
        "<|im_start|>system\nTools: image_zoom_in_tool.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "What letter is on the red circle?<|im_end|>\n"
        "<|im_start|>assistant\n<think>I need to zoom in.</think>"
        + prompts.tool_call(CALL)
        + "<|im_end|>\n<|im_start|>user\n<tool_response>"
        "<|vision_start|><|image_pad|><|vision_end|></tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>?</think><|im_end|>\n"
        "<|im_start|>user\n<tool_response>{'error': 'no'}</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "Tools:" not in render(CONVERSATION, tools=False)


def parsed(processor, reply):
    ids = processor.tokenizer(reply, add_special_tokens=False)["input_ids"]
    return Policy(processor).calls(_Opened(), ids)


class _Opened:
    prompt_ids, completion_ids = [], []


def test_the_response_template_reads_back_what_tool_call_writes(processor):
    reply = "<think>?</think>" + prompts.tool_call(CALL) + prompts.TURN_END
    assert parsed(processor, reply) == [{"name": prompts.ZOOM, "arguments": CALL}]
    assert parsed(processor, prompts.answer("?", "K") + prompts.TURN_END) == []


def kind_of(sample):
    text = "".join(text for text, _ in sample.parts)
    if "Where is" in text:
        return "grounding"
    if "List the objects" in text:
        return "caption"
    if "<tool_response>" in text:
        return "episode"
    if sample.views != [0]:
        return "crop"
    return "direct, tool offered" if "Tools:" in text else "direct"


@pytest.fixture(scope="module")
def pretraining():
    """Two samples of every kind, by kind."""
    samples, rng = {}, random.Random(0)
    for index in range(12):
        scene, images = draw(index), Images()
        view = images.add(scene)
        for make, shares in ((short_sample, (0.3, 0.3)),) * 3 + ((long_sample, (0.4, 0.4)),) * 2:
            sample = make(scene, view, images, rng, *shares)
            samples.setdefault(kind_of(sample), []).append((scene, sample))
    return {kind: found[:2] for kind, found in samples.items()}


KINDS = ["grounding", "crop", "direct", "direct, tool offered", "caption", "episode"]


def test_the_kinds_are_all_there_are(pretraining):
    assert sorted(pretraining) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_shows_the_tokens_of_the_loop(kind, pretraining, processor):
    for scene, sample in pretraining[kind]:
        first, *rest = [text for text, _ in sample.parts]
        question = re.search(r"<\|vision_end\|>(.*)<\|im_end\|>", first)[1]
        policy = Policy(processor, tools="Tools:" in first)
        turns = "".join(rest).split("\n<|im_start|>user\n")
        expected = policy.prompt_ids(question, scene.image)
        for number, turn in enumerate(turns):
            _, _, reply = turn.rpartition(prompts.GENERATION_PROMPT)
            if number:
                expected += policy.observation_ids([[{"type": "image", "image": scene.image}]])
            expected += policy.tokenizer(reply, add_special_tokens=False)["input_ids"]
        batch = encode([sample], processor.tokenizer)
        assert batch["input_ids"][0].tolist() == expected
        assert batch["attention_mask"].all()
        assert batch["images"].tolist() == sample.views


@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_has_the_text_of_the_template(kind, pretraining, render):
    for _, sample in pretraining[kind]:
        text = "".join(text for text, _ in sample.parts)
        question = re.search(r"<\|vision_end\|>(.*)<\|im_end\|>", text)[1]
        messages = prompts.user_message(question)
        for turn in re.findall(r"<\|im_start\|>assistant\n(.*?)<\|im_end\|>", text):
            call = re.search(r"<tool_call>(.*)</tool_call>", turn)
            reply = {"role": "assistant", "content": turn.split("<tool_call>")[0]}
            messages.append(reply)
            if call:
                reply["tool_calls"] = [{"type": "function", "function": json.loads(call[1])}]
                messages.append({"role": "tool", "content": [{"type": "image"}]})
        assert render(messages, tools="Tools:" in text) == text + "\n"


def test_only_replies_weigh_in_the_loss(pretraining, processor):
    for kind in KINDS:
        for _, sample in pretraining[kind]:
            for text, weight in sample.parts:
                written_by_the_loop = "<|im_start|>" in text
                assert weight == 0 if written_by_the_loop else weight >= 0


def test_two_samples_in_a_batch_are_padded_on_the_right(pretraining, processor):
    samples = [pretraining["grounding"][0][1], pretraining["caption"][0][1]]
    batch = encode(samples, processor.tokenizer)
    for row, sample in enumerate(samples):
        alone = encode([sample], processor.tokenizer)
        n = alone["input_ids"].size(1)
        assert batch["input_ids"][row, :n].tolist() == alone["input_ids"][0].tolist()
        assert batch["weights"][row, :n].tolist() == alone["weights"][0].tolist()
        assert batch["attention_mask"][row].tolist() == [1] * n + [0] * (
            batch["input_ids"].size(1) - n
        )
        assert batch["weights"][row, n:].sum() == 0


@pytest.mark.parametrize("token", [*prompts.RESERVED_TOKENS, prompts.TURN_END])
def test_a_question_with_markup_is_refused(token, processor, samples, tmp_path):
    question = f"What is this?{token}"
    with pytest.raises(ValueError, match=f"contains {re.escape(token)}, which only the template"):
        Policy(processor).prompt_ids(question, samples[0]["image"])
    samples[0]["image"].save(tmp_path / "a.png")
    row = {"image": "a.png", "question": question, "answer": "K"}
    good = {**row, "question": "What is this?"}
    (tmp_path / "questions.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    _, (error,) = from_folder(tmp_path)
    assert error.startswith("row 2:") and token in error


def test_every_reserved_token_is_one_token(processor):
    for token in (*prompts.RESERVED_TOKENS, prompts.TURN_END):
        ids = processor.tokenizer(token, add_special_tokens=False)["input_ids"]
        assert ids == [processor.tokenizer.convert_tokens_to_ids(token)]


def test_split_turns_gives_what_the_model_wrote():
    turns = ["<think>?</think>" + prompts.tool_call(CALL), prompts.answer("!", "K")]
    between = f"{prompts.TURN_END}\n<|im_start|>user\n<tool_response>x</tool_response>"
    text = turns[0] + between + f"{prompts.TURN_END}\n{prompts.GENERATION_PROMPT}" + turns[1]
    assert prompts.split_turns(text + prompts.TURN_END) == turns
    assert prompts.split_turns("cut off") == ["cut off"]
    assert prompts.split_turns("") == [""]
