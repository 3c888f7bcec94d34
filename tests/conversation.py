"""A conversation with every kind of message, and what a chat template makes of one."""

from deepeyes_lite import prompts

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


def assert_keeps_prefixes(render, messages):
    """A rendered conversation is a prefix of its continuation, and a prompt one of its reply."""
    first = [message["role"] for message in messages].index("user") + 1
    texts = {n: render(messages[:n]) for n in range(first, len(messages) + 1)}
    for n in range(first + 1, len(messages) + 1):
        assert texts[n].startswith(texts[n - 1]) and texts[n] != texts[n - 1]
        if messages[n - 1]["role"] == "assistant":
            assert texts[n].startswith(render(messages[: n - 1], add_generation_prompt=True))
