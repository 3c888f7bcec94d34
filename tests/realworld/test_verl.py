"""verl.py and verl_reward.py: DeepEyes' schema in and out, and the reward under verl's name."""

import io
import re
import subprocess
import sys
import time

import pytest
from datasets import Dataset, load_from_disk
from PIL import Image

from deepeyes_lite import prompts
from deepeyes_lite.data import FEATURES, build
from deepeyes_lite.realworld import verl_reward
from deepeyes_lite.realworld.folder import BadRow
from deepeyes_lite.realworld.public import write
from deepeyes_lite.realworld.served import deepeyes_system
from deepeyes_lite.realworld.verl import MATH_SUFFIX, MATH_SYSTEM, VERL_FEATURES, export, from_verl
from deepeyes_lite.realworld.verl_reward import MATH, compute_score, crops, split_response
from deepeyes_lite.tinyworld.dataset import tiny_world
from deepeyes_lite.verifiers import check_answer
from verl_episodes import EPISODES, decoded, templates

CALL = "<think>?</think>" + prompts.tool_call({"bbox_2d": [100, 200, 300, 400]})
CROP = (
    "<|im_end|>\n<|im_start|>user\n<tool_response><|vision_start|><|image_pad|><|vision_end|>"
    f"{prompts.FORMAT}</tool_response><|im_end|>\n<|im_start|>assistant\n"
)
REFUSAL = "<|im_end|>\n<|im_start|>user\nError: too small<|im_end|>\n<|im_start|>assistant\n"


def picture(size=(60, 40)):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def official(
    index="7", source="vstar", question="Is the flag red or white?", truth="white", **over
):
    """A row as the three files have it."""
    tool = source != MATH
    suffix = prompts.FORMAT if tool else MATH_SUFFIX
    row = {
        "data_source": source,
        "prompt": [
            {"role": "system", "content": deepeyes_system() if tool else MATH_SYSTEM},
            {"role": "user", "content": f"<image>\n{question}{suffix}"},
        ],
        "images": [{"bytes": picture(), "path": None}],
        "ability": source,
        "env_name": "visual_toolbox_v2" if tool else "",
        "reward_model": {"ground_truth": truth, "style": "model"},
        "extra_info": {"answer": truth, "index": index, "question": question, "split": "train"},
    }
    return {**row, **over}


ROWS = [
    official(),
    official("8", "chart", "How high is the bar of 2015?", "12.5"),
    official("9", MATH, "Find x.\nChoices:\nA. 30\nB. 45", "B"),
    official("10", MATH, r"What is \frac{1}{2} + \frac{1}{4}?", r"\frac{3}{4}"),
]


def test_a_row_becomes_a_sample_whose_verifier_follows_the_reward_of_the_row():
    samples = [from_verl(0, row) for row in ROWS]
    names = [samples[0][name] for name in ("id", "kind", "source", "question", "answer")]
    assert names == ["vstar-7", "vstar", "DeepEyes-47k", "Is the flag red or white?", "white"]
    assert set(samples[0]) == set(FEATURES) - {"need"}  # which has a default
    assert [sample["verifier"] for sample in samples] == ["text", "number", "choice", "math"]
    assert samples[2]["options"] == ["30", "45"]
    for source in ("vstar", MATH):  # the question is in the prompt, too
        sample = from_verl(3, official(source=source, extra_info=None))
        assert (sample["question"], sample["id"]) == ("Is the flag red or white?", f"{source}-3")


def test_a_bad_row_says_what_is_wrong():
    for change, message in (
        ({"images": [{"bytes": picture()}] * 2}, "2 images; a sample has exactly one"),
        ({"images": None}, "0 images"),
        ({"images": [{"bytes": None, "path": "a.png"}]}, "bytes are missing"),
        ({"images": ["a.png"]}, "bytes are missing"),
        ({"images": [{"bytes": b"no image"}]}, "no image"),
        ({"images": [{"bytes": picture((9000, 8000))}]}, "million pixels"),
        ({"reward_model": {}}, "ground_truth is empty"),
        ({"reward_model": "white"}, "must be structs"),
        ({"data_source": None}, "data_source is empty"),
        ({"extra_info": {}, "prompt": "Is it?"}, "question is empty"),
        ({"extra_info": {"question": "Is it?<|im_end|>"}}, "only the template may write"),
    ):
        with pytest.raises(BadRow, match=message):
            from_verl(0, official(**change))


def test_read_and_exported_a_file_is_what_it_was(tmp_path):
    official_file, exported = (
        tmp_path / "data_0.1.2_visual_toolbox_v2.parquet",
        tmp_path / "o.parquet",
    )
    Dataset.from_list(ROWS, features=VERL_FEATURES).to_parquet(str(official_file))
    dataset, errors = write("deepeyes-vstar", tmp_path / "set", official_file, progress=False)
    assert errors == [] and dataset.features == FEATURES
    assert export(load_from_disk(tmp_path / "set"), exported) == len(ROWS)
    again = Dataset.from_parquet(str(exported), cache_dir=str(tmp_path / "cache"))
    assert again.features == VERL_FEATURES  # so verl can concatenate it with the official files
    assert again.to_list() == ROWS
    with pytest.raises(ValueError, match="must end in .parquet"):
        export(dataset, tmp_path / "a.json")


def test_a_sample_of_ours_survives_out_and_in(tmp_path):
    dataset, path = tiny_world("train", 3), tmp_path / "a.parquet"
    export(dataset, path)
    again, errors = write("deepeyes", tmp_path / "set", path, limit=2, progress=False)
    assert errors == [] and len(again) == 2
    for ours, back in zip(dataset, again):
        assert back["image"].tobytes() == ours["image"].tobytes()
        same = ("question", "answer", "verifier", "options")
        assert [back[name] for name in same] == [ours[name] for name in same]
        assert (back["id"], back["kind"]) == (f"vstar-{ours['id']}", "vstar")
        assert (back["boxes_px"], back["legible"]) == ([], -1)  # the schema has no place for them


RIGHT, WRONG = prompts.answer("!", "white"), prompts.answer("!", "red")


def without_specials(text):
    return re.sub(r"<\|\w+\|>", "", text)


def test_the_reward_is_that_of_the_variant():
    info = {"question": "Is the flag red or white?"}
    for response, score in (
        (RIGHT, 0.8),
        (WRONG, 0.0),
        (CALL + CROP + RIGHT, 2.0),
        (CALL + CROP + WRONG, 0.0),
        (CALL + CROP + CALL + CROP + RIGHT, 2.0),
        (CALL + REFUSAL + RIGHT, 0.8),
        ("<answer>white", -0.2),
        ("", -0.2),
    ):
        for text in (response, without_specials(response)):
            assert compute_score("vstar", text, "white", info) == pytest.approx(score), text


@pytest.mark.parametrize("template", templates())
@pytest.mark.parametrize("episode", EPISODES)
@pytest.mark.parametrize("special", [False, True])
def test_an_answered_call_is_one_that_an_image_came_back_for(template, episode, special):
    turns, observations, score = EPISODES[episode]
    text = decoded(templates()[template], turns, observations, special)
    assert compute_score("vstar", text, "TRUTH", {}) == pytest.approx(score), text


def test_a_crop_counts_beside_a_refusal_and_with_a_caption():
    between = "\n</tool_response>\n<tool_response>\n"
    for body, count in (
        ("", 1),
        (between, 2),
        (between + "Error: no", 1),
        ("Error: no" + between + "Error: no", 0),
        ("Zoomed in on the image to the region [1, 2, 3, 4] with label x.", 1),  # verl 0.5
        (prompts.FORMAT, 1),
        (f"<|vision_start|>{'<|image_pad|>' * 36}<|vision_end|>", 1),
    ):
        for start in ("\nuser\n", "user\n", "<|im_end|>\n<|im_start|>user\n"):
            text = f"?</tool_call>{start}<tool_response>\n{body}\n</tool_response>\nassistant\n!"
            assert crops(split_response(text)[1]) == count, text
    for body, count in (("", 1), ("\ntool\n", 2), ("\ntool\nError: no", 1), ("Error: no", 0)):
        text = f"?</tool_call>\ntool\n{body}\nassistant\n!"
        assert crops(split_response(text)[1]) == count, text


def test_a_hostile_response_is_rewarded_in_time():
    start = time.monotonic()
    for part in (
        "\n",
        "\nuser\n<tool_response>",
        "\ntool\n",
        "</tool_call>tool\n",
        "\nuser\n",
        "<|im_end|>",
    ):
        assert compute_score("vstar", part * (60_000 // len(part)), "K") <= 0, part
    assert time.monotonic() - start < 10


def test_what_the_tool_says_of_its_calls_comes_before_the_text():
    text = decoded(prompts.CHAT_TEMPLATE, *EPISODES["zoom"][:2])
    for paid, score in (([1], 2.0), ([-1, 1], 2.0), ([-1], 0.8), ([0, -1], 0.8), ([], 0.8)):
        info = {"tool_rewards": paid}
        assert compute_score("vstar", text, "TRUTH", info) == pytest.approx(score), paid
    # Another tool may give its calls nothing, as verl gives unknown ones: then the text tells.
    assert compute_score("vstar", text, "TRUTH", {"tool_rewards": [0.0]}) == pytest.approx(2.0)
    refused = decoded(prompts.CHAT_TEMPLATE, *EPISODES["empty box"][:2])
    assert compute_score("vstar", refused, "TRUTH", {"tool_rewards": [0.0]}) == pytest.approx(0.8)


def test_the_reward_of_math_looks_into_the_box():
    for response, score in (
        (r"<think>\boxed{1}</think>It is \boxed{\frac{3}{4}}.", 1.2),
        (r"<think>x</think>\boxed{1} or \boxed{3/4}", 1.2),
        (r"<think>x</think>\boxed{0.5}", 0.0),
        (r"<think>x\boxed{0.75}", 0.8),
        (r"<think>\boxed{0.75}</think>", -0.4),
        ("<think>x</think>0.75", -0.4),
        ("", -0.4),
    ):
        assert compute_score(MATH, response, r"\frac{3}{4}", {}) == pytest.approx(score), response
    with_call = CALL + CROP + WRONG
    assert compute_score("chart", with_call, "white", variant_name="unconditional") == 0.4
    info = {"question": "Is it red?\nA. yes\nB. no"}  # the options are found in the question
    assert compute_score("vstar", prompts.answer("!", "(B) no"), "B", info) == 0.8


def test_the_reward_is_loaded_by_its_path_without_datasets_and_torch():
    path = verl_reward.__file__
    code = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('custom', {path!r})\n"
        "spec.loader.exec_module(u.module_from_spec(spec))\n"
        "print({'datasets', 'torch', 'transformers', 'math_verify'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_the_rule_of_a_question_is_exported_with_it(tmp_path):
    image = {"bytes": picture(), "path": None}
    rows = [
        ("Is it red?", "yes", [], "yes_no", "Yes, it is."),
        ("How much?", "$12", [], "number", "12.0"),
        ("How much?", "12.5", [], "number", "12.50"),
        ("Which house?", "12", [], "text", "12"),
        ("Which word?", "yes", [], "text", "yes"),
        ("What is x?", "3/4", [], "math", "0.75"),
        ("What? (A) red (B) blue", "B", ["red", "blue"], "choice", "**B**"),
        ("What?\nA. red\nB. blue", "blue", ["red", "blue"], "choice", "(B)"),
    ]
    columns = {"image": image, "boxes_px": [], "kind": "own", "legible": -1, "source": "folder"}
    ours = build(
        {"id": str(i), "question": q, "answer": a, "options": o, "verifier": v} | columns
        for i, (q, a, o, v, _) in enumerate(rows)
    )
    export(ours, tmp_path / "a.parquet")
    exported = Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
    for row, sample, (_, truth, options, verifier, reply) in zip(exported, ours, rows, strict=True):
        back = from_verl(0, row)
        assert (back["verifier"], back["options"]) == (verifier, options)
        math = row["data_source"] == MATH
        wrapped = f"<think>!</think>\\boxed{{{reply}}}" if math else prompts.answer("!", reply)
        score = compute_score(row["data_source"], wrapped, truth, row["extra_info"])
        assert score == pytest.approx(1.2 if math else 0.8) and check_answer(reply, sample), row
    wrong = prompts.answer("!", "12.0")  # of a house: its number is a text
    assert compute_score("vstar", wrong, "12", exported[3]["extra_info"]) == 0.0


@pytest.mark.parametrize(
    "text", ["\nuser\n<tool_response>", "\n", "<|im_end|>\n<|im_start|>user\nError", "user\n \n"]
)
def test_a_reward_takes_linear_time(text):
    start = time.process_time()
    compute_score("vstar", text * 20_000, "red")
    compute_score("vstar", "\nuser\n<tool_response>" + text * 20_000 + "assistant\n", "red")
    assert time.process_time() - start < 5
