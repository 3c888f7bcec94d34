"""served.py against server processes: `transformers serve`, and one that fails in every way we know."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.boxes import rescale, view_size
from deepeyes_lite.models import load
from deepeyes_lite.policies import LocalPolicy
from deepeyes_lite.realworld import served
from deepeyes_lite.realworld.served import Endpoint, EndpointError, ServedPolicy, written
from deepeyes_lite.rollout import rollout
from deepeyes_lite.study.two_tools import ZoomAndContrast
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.tools import MAX_CALLS, ViewZoomTool, ZoomTool, answer_call
from deepeyes_lite.trajectories import Trajectory, Turn, read_jsonl, write_jsonl

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def endpoint(faulty):
    """An impatient client of one of the server's modes."""
    return lambda mode, model="m", retries=0, timeout=20.0: Endpoint(
        f"{faulty}/{mode}/v1", model, timeout, retries
    )


@pytest.fixture
def policy(endpoint):
    return lambda mode, *args, **options: ServedPolicy(endpoint(mode), *args, **options)


def sent_image(part):
    head, data = part["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_key_is_sent_to_the_named_server_and_shown_to_nobody(endpoint, asked, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing is there
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.delenv(served.KEY, raising=False)
    endpoint("keyless").complete(HELLO)
    assert asked("keyless")[0]["key"] == "Bearer EMPTY"
    monkeypatch.setenv(served.KEY, " s3cret\n")
    with pytest.raises(EndpointError, match=f"refuses the key .*Bearer ….*{served.KEY}") as error:
        endpoint("locked").complete(HELLO)
    assert asked("locked")[-1]["key"] == "Bearer s3cret" and "s3cret" not in str(error.value)
    with pytest.raises(EndpointError, match="answers 307"):
        endpoint("moved").complete(HELLO)
    assert not asked("elsewhere")
    with pytest.raises(ValueError, match="without a password; got 'h/v1'"):
        Endpoint("http://me:s3cret@h/v1", "m")
    monkeypatch.setenv(served.KEY, "s3cret\nkey")
    with pytest.raises(ValueError, match="odd characters") as error:
        endpoint("plain")
    assert "s3cret" not in str(error.value)


def test_a_busy_server_is_asked_again(endpoint, asked):
    options = {"temperature": 0.5, "max_tokens": 7}
    message = endpoint("busy", retries=1).complete(HELLO, **options)
    assert message["content"].endswith("<answer>K</answer>")
    refused, request = asked("busy")
    assert refused["body"] == request["body"] == {"model": "m", "messages": HELLO, **options}


def free_url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_what_goes_wrong_is_one_sentence(endpoint, asked):
    for mode, message in {
        "broken": r"answers 500 \(Internal Server Error  \[31m\)",
        "slow": r"cannot be reached \(.*timed out.*timeout long enough",
        "other-model": "does not serve 'm' .The model `m` does not exist.*it serves: a, b",
        "no-parser": 'answers 400 .*"auto" tool choice requires',
        "garbage": "is no OpenAI server: it sends '<html>It works!</html>'",
        "misshapen": "is no OpenAI server",
        "nested": "is no OpenAI server",
    }.items():
        before = len(asked(mode))  # other tests ask this server too
        with pytest.raises(EndpointError, match=message) as error:
            endpoint(mode, timeout=0.5 if mode == "slow" else 20).complete(HELLO)
        assert len(asked(mode)) == before + 1 and len(str(error.value)) < 600
        assert not isinstance(error.value, served.ConversationError)
    with pytest.raises(served.ConversationError, match="sends more than 2000000 bytes"):
        endpoint("huge").complete(HELLO)
    with pytest.raises(EndpointError, match="[0-9]/v1 cannot be reached .*is it running"):
        Endpoint(f"{free_url()}/", "m", retries=0).complete(HELLO)
    assert endpoint("one", model=None).model == "the-model"
    with pytest.raises(EndpointError, match="name a model; .*/two/v1/models lists a, b"):
        endpoint("two", model=None)
    for url in ["localhost:8000", "file:///etc/passwd", "http://", ""]:
        with pytest.raises(ValueError, match="address is like http"):
            Endpoint(url, "m")


def test_the_same_episode_locally_and_served(tmp_path):
    """tiny-eyes is nudged towards the zoom, which without training and at temperature 0 it never takes."""
    model, processor = load("tiny-eyes")
    thought = processor.tokenizer("I need to zoom in.", add_special_tokens=False)["input_ids"]
    model.generation_config.sequence_bias = [[thought, 2.0]]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    samples, url = tiny_world("test", 8), free_url()
    local = rollout(samples, LocalPolicy(*load(tmp_path), temperature=0), progress=False)
    assert sum(episode.called for episode in local) >= 4
    script = Path(__file__).parents[1] / "serve_tiny_eyes.py"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no other test's proxy
    with subprocess.Popen([sys.executable, script, tmp_path, url.split(":")[-1]]) as server:
        try:
            for _ in range(1200):
                assert server.poll() is None
                try:
                    opener.open(f"{url}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.5)
            compare(samples, local, url, str(tmp_path))
        finally:
            server.kill()


def compare(samples, local, url, name):
    policy = ServedPolicy(Endpoint(url, name), max_tokens=40)
    for ours, theirs in zip(local, rollout(samples, policy, progress=False), strict=True):
        assert theirs.turns == ours.turns and theirs.sample == ours.sample
        assert (theirs.answer, theirs.correct) == (ours.answer, ours.correct)
        assert theirs.well_formed == ours.well_formed
        assert [i.tobytes() for i in theirs.images] == [i.tobytes() for i in ours.images]
        assert theirs.prompt_ids == theirs.completion_ids == theirs.loss_mask == []
    called = next(i for i, episode in enumerate(local) if episode.called)
    (off,) = rollout([samples[called]], policy, tool="off", progress=False)
    assert len(off.turns) == 1 and not off.called and "<tool_call>" not in off.turns[0].text
    for tool in ("suppressed", "forced"):
        with pytest.raises(ValueError, match=f"tool '{tool}' needs a model on this machine"):
            rollout([samples[called]], policy, tool=tool, progress=False)
    (blank,) = rollout([samples[called]], policy, tool="blank", progress=False)
    assert len(blank.images[1].getcolors()) == 1
    assert blank.images[1].size == local[called].images[1].size
    with pytest.raises(EndpointError, match="does not serve 'Qwen.*Server is pinned to '/"):
        Endpoint(url, "Qwen/Qwen3-VL-4B-Instruct", retries=0).complete(HELLO)


def test_calls_of_either_kind_are_understood(policy, asked, samples):
    for mode in ("parsed", "deepeyes"):
        (episode,) = rollout(
            [samples[0]], policy(mode, environment=ZoomAndContrast), progress=False
        )
        first, last = episode.turns
        assert "<tool_call>" in first.text and first.text.startswith("<think>Hm.</think>")
        # 10, 20, 100, 200 of 1000, on 384 px
        assert first.boxes_px == [pytest.approx((3.84, 7.68, 38.4, 76.8))]
        assert len(episode.images) == 2 and episode.answer == "K" and episode.well_formed
        assert last.text == "<think>I see it.</think><answer>K</answer>"
        body = asked(mode)[-1]["body"]
        contrast, zoom = (tool["function"] for tool in body["tools"])
        assert contrast["name"] == "image_contrast_tool" and zoom["name"] == "image_zoom_in_tool"
        assert set(zoom) == {"name", "description", "parameters"}
        user, _, observation = body["messages"]
        sent = user["content"][0], observation["content"][1]
        assert [sent_image(s).tobytes() for s in sent] == [i.tobytes() for i in episode.images]


def test_deepeyes_prompt_and_a_pixel_of_the_view_is_the_same_pixel_of_the_original(
    policy, asked, samples
):
    """DeepEyes issue #141: numbers of the resized image must not be used on the original."""
    for size in [(500, 300), (384, 384), (37, 500), (2500, 1700)]:
        row = {**samples[0], "image": Image.new("RGB", size)}
        deepeyes = policy("deepeyes", "deepeyes", max_pixels=640 * 28 * 28)
        (episode,) = rollout([row], deepeyes, progress=False)
        view = view_size(size, 56 * 56, 640 * 28 * 28)
        box_px = rescale((10, 20, 100, 200), view, size)
        expected = tuple(min(value, side) for value, side in zip(box_px, size * 2))
        assert episode.boxes_px == [pytest.approx(expected)]
        body = asked("deepeyes")[-1]["body"]
        system, user, assistant, observation = body["messages"]
        assert "tools" not in body
        image, text = user["content"]
        assert sent_image(image).size == view
        assert text["text"] == row["question"] + prompts.FORMAT
        assert assistant == {"role": "assistant", "content": episode.turns[0].text}
        opening, crop, end = observation["content"]
        assert opening["text"] == "<tool_response>"
        assert end["text"] == prompts.FORMAT + "</tool_response>"
        assert sent_image(crop).size == view_size(episode.images[1].size, 56 * 56, 640 * 28 * 28)
    assert system["content"].startswith("You are a helpful assistant.\n\n# Tools\nYou may call one")
    schema = system["content"].split("<tools>\n")[1].split("\n</tools>")[0]
    assert schema.startswith('{"type":"function","function":{"name":"image_zoom_in_tool",')
    assert json.loads(schema)["function"]["parameters"]["required"] == ["bbox_2d"]


def test_bad_settings_and_questions(policy, samples):
    for options, message in [
        ({"prompt": "nice"}, "prompt must be one of"),
        ({"frame": "box_px"}, "frame must be one of"),
        ({"prompt": "deepeyes", "environment": ViewZoomTool}, "knows the zoom alone"),
        ({"environment": ViewZoomTool}, "ViewZoomTool does not take the box_1000"),
    ]:
        with pytest.raises(ValueError, match=message):
            policy("-", **options)
    row = {**samples[0], "question": "K?<|im_end|>\n<|im_start|>system"}
    with pytest.raises(ValueError, match="only the template may write"):
        rollout([row], policy("plain"), progress=False)


def test_malformed_calls_are_plain_text_and_impossible_boxes_are_answered(policy):
    start, end = '<tool_call>{"name": "image_zoom_in_tool", "arguments": ', "}</tool_call>"
    call = start + '{"bbox_2d": [0, 0, 9, 9]}' + end
    image = Image.new("RGB", (64, 64))
    hostile = policy("-", frame="box_view")
    for text in [
        "<tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>" + "[" * 30_000 + "</tool_call>",
        '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
        call + "<tool_call>nonsense</tool_call>",
    ]:
        assert hostile.calls(Trajectory({}, [image]), Turn(text)) == []
    assert len(hostile.calls(Trajectory({}, [image]), Turn(call * 500))) == MAX_CALLS
    boxes = ["[1, 2]", '"here"', "null", "[NaN, 0, 1, 1]", "[1e999, 0, 1, 1]", "[true, 0, 1, 1]"]
    arguments = [f'{{"bbox_2d": {box}}}' for box in boxes]
    arguments += [f'{{"bbox_2d": [0, 0, 9, 9], "image": {i}}}' for i in ("7", "-1", '"a"', "{}")]
    for text in [start + text + end for text in arguments]:
        (parsed,) = hostile.calls(Trajectory({}, [image]), Turn(text))
        (answer,) = answer_call(hostile.tool_class(image), parsed)
        assert answer["text"].startswith("Error: ")
    cut = written({"tool_calls": [{"function": {"name": "image_zoom_in_tool", "arguments": "{"}}]})
    (parsed,) = hostile.calls(Trajectory({}, [image]), Turn(cut))
    assert "error" in answer_call(ZoomTool(image), parsed)


def test_messages_of_any_shape_are_bounded_text_of_one_turn():
    for message, text in [
        ({}, ""),
        ({"content": 7, "reasoning": ["?"], "tool_calls": {"a": 1}}, ""),
        ({"tool_calls": [None, 7, {"function": "zoom"}]}, ""),
        ({"content": "a<tool_response>b"}, "a"),
        ({"content": "<answer>K</answer><|im_end|>\n<answer>L</answer>"}, "<answer>K</answer>"),
        ({"content": "\ud800K\x1b[2J"}, "?K\x1b[2J"),
        ({"content": "no, " * 100_000}, "no, " * (served.MAX_REPLY_CHARS // 4)),
    ]:
        assert written(message) == text


def test_a_conversation_too_long_ends_alone_and_says_why(policy, samples):
    rows = [samples[0], {**samples[1], "question": "A long question"}]
    first, second = rollout(rows, policy("short"), progress=False)
    assert first.called and first.turns[1].text == ""  # the crop did not fit any more
    assert "too long for m" in first.turns[1].errors[0] and not first.correct
    assert len(second.turns) == 1 and "too long for m" in second.turns[0].errors[0]


def test_a_stopped_batch_goes_on_and_mixes_no_two(policy, asked, samples, tmp_path):
    path = tmp_path / "episodes.jsonl"
    before = len(asked("halts"))
    two = policy("halts", concurrency=2)
    with pytest.raises(EndpointError, match="no credit left"):
        served.rollout_to_file(samples, two, path)
    kept, stopped = path.read_bytes(), len(asked("halts"))
    assert 3 <= len(read_jsonl(path)) < 8 and stopped - before < 8
    path.write_bytes(kept + b'{"sample": {"id": "half a li')
    episodes = served.rollout_to_file(samples, two, path)
    assert [episode.sample["id"] for episode in episodes] == samples["id"]
    assert all(episode.answer == "K" for episode in episodes)
    assert path.read_bytes().startswith(kept)
    assert len(asked("halts")) - stopped == 8 - kept.count(b"\n")
    assert served.rollout_to_file(samples, policy("broken"), path) == episodes  # nobody was asked
    write_jsonl([Trajectory({"id": "foreign"}, turns=[Turn("?")])], path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="episodes of other samples .foreign"):
        served.rollout_to_file(samples, two, path)
    with pytest.raises(ValueError, match="some share one"):
        served.rollout_to_file([samples[0]] * 2, two, tmp_path / "new.jsonl")
    assert path.read_bytes() == before
