"""One reading of a reply: local, scripted and served policies, TRL's trainer and the rewards agree."""

import pytest
from trl.chat_template_utils import parse_response

from deepeyes_lite import prompts
from deepeyes_lite.policies import LocalPolicy, ScriptedPolicy
from deepeyes_lite.realworld.served import Endpoint, ServedPolicy, written
from deepeyes_lite.rollout import rollout
from deepeyes_lite.tinyworld.dataset import training_questions
from deepeyes_lite.training import RunConfig, build_trainer
from deepeyes_lite.trajectories import Trajectory, Turn
from deepeyes_lite.verifiers import extract_answer
from replies import CALLS, HEADS, REPLIES
from trl_episode import trl_episode

ANSWER = prompts.answer("I can read it.", "K")


@pytest.fixture(scope="module")
def trainer(random_eyes, tmp_path_factory):
    config = RunConfig(model=str(random_eyes), steps=1, prompts_per_step=1, num_generations=2)
    return build_trainer(config, tmp_path_factory.mktemp("run"), training_questions(config))


@pytest.fixture(scope="module")
def served():
    return ServedPolicy(Endpoint("http://localhost:9", "m", retries=0))


def test_all_read_the_same(trainer, served):
    assert len(REPLIES) >= 100
    processor, episode = trainer.processing_class, Trajectory(sample={})
    policies = LocalPolicy(trainer.model, processor), ScriptedPolicy(processor, [])
    for name, text in REPLIES.items():
        reply = prompts.read_reply(text)
        ids = processor.tokenizer(text + prompts.TURN_END, add_special_tokens=False)["input_ids"]
        for policy in policies:
            assert policy.calls(episode, ids) == reply.calls, name
        assert served.calls(episode, Turn(text)) == reply.calls, name
        assert written({"content": text}) == text
        message = parse_response(trainer._tokenizer, ids, prefix=[], tools=trainer.tools)
        calls = [call["function"]["arguments"]["call"] for call in message["tool_calls"]]
        assert calls == reply.calls, name
        assert extract_answer(text) == reply.answer
        assert len(reply.calls) <= 1 and not (reply.calls and reply.answer)


def test_what_is_read():
    read = {name: prompts.read_reply(text) for name, text in REPLIES.items()}
    for head in ("thought", "inside the thought", "open thought", "open answer"):
        assert read[f"{head}, usual"].calls and not read[f"{head}, usual"].wrong
    for name in ("two", "copies", "bad, then good", "good, then open", "on lines"):
        (call,) = read[f"thought, {name}"].calls
        assert call["arguments"]["bbox_2d"] == [100, 200, 300, 400]
    for name in ("good, then bad", "tuple", "single quotes", "trailing comma", "fence", "blank"):
        assert read[f"thought, {name}"].wrong.startswith("the call is no JSON")
    assert read["call named, usual"].wrong  # it begins where the tag is named first
    for name in ("open", "only opened"):
        assert read[f"thought, {name}"].wrong == "the call is not closed"
    for name in ("list", "null", "no name", "no arguments", "arguments are text"):
        assert read[f"thought, {name}"].wrong.startswith("a call is {")
    for head in ("answer before", "answer after", "answer in the thought"):
        assert not read[f"{head}, usual"].calls and read[f"{head}, usual"].answer in "KL"


@pytest.mark.parametrize("head", HEADS)
def test_trl_and_the_loop_play_the_same_episode(head, trainer, samples, monkeypatch):
    """Ids, mask and images of every reply as a first turn; the others follow the usual thought."""
    texts = [text for name, text in REPLIES.items() if name.startswith(f"{head}, ")]
    assert head != "thought" or len(texts) == len(CALLS)
    for text in texts:
        script = [text, ANSWER]
        policy = ScriptedPolicy(trainer.processing_class, script)
        (ours,) = rollout([samples[0]], policy, progress=False)
        theirs = trl_episode(trainer, samples[0], script, monkeypatch)
        assert ours.completion_ids == theirs["completion_ids"], text
        assert ours.loss_mask == theirs["loss_mask"], text
        assert len(ours.images) == theirs["images"], text
        assert len(ours.turns) == 2 or not prompts.read_reply(text).calls
