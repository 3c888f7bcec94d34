"""Replies of every kind that models are known to write, for all that read or answer them."""

from itertools import product

BOX = "[100, 200, 300, 400]"


def call(arguments=f'{{"bbox_2d": {BOX}}}', name="image_zoom_in_tool"):
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


def boxed(box):
    return call(f'{{"bbox_2d": {box}}}')


K, L = "<answer>K</answer>", "<answer>L</answer>"
CALL = call()
# What stands before a call: the thought, closed, open, or round the call; talk; an answer.
HEADS = {
    "bare": "{}",
    "thought": "<think>?</think>{}",
    "line breaks": "<think>?</think>\n{}\n",
    "inside the thought": "<think>? {} </think>",
    "open thought": "<think>? {}",
    "closed thought": "? </think>{}",
    "thought twice": "<think>?</think><think>!</think>{}",
    "talk": "Let me look. {} I will see.",
    "call named": "<think>I use <tool_call>.</think>{}",
    "answer before": K + "{}",
    "answer after": "<think>?</think>{}" + L,
    "answer in the thought": "<think><answer>K</answer></think>{}",
    "empty answer": "<answer></answer>{}",
    "blank answer": "<answer> </answer>{}",
    "open answer": "<answer>K{}",
}
CALLS = {
    "none": "",
    "usual": CALL,
    "label": call(f'{{"bbox_2d": {BOX}, "label": "the cup"}}'),
    "on lines": CALL.replace(">{", ">\n{").replace("}<", "}\n<").replace(", ", ",\n "),
    "copies": CALL * 6,
    "two": boxed("[0, 0, 90, 90]") + CALL,
    "good, then bad": CALL + "<tool_call>nonsense</tool_call>",
    "bad, then good": "<tool_call>nonsense</tool_call>" + CALL,
    "good, then open": CALL + "<tool_call>{",
    "tuple": boxed("(100, 200, 300, 400)"),
    "single quotes": CALL.replace('"', "'"),
    "trailing comma": boxed("[100, 200, 300, 400,]"),
    "comment": boxed("[100, 200, 300, 400] // here"),
    "no closing brace": CALL.replace("}}<", "}<"),
    "fence": CALL.replace("<tool_call>", "<tool_call>```json\n").replace("</", "\n```</"),
    "open": CALL.replace("</tool_call>", ""),
    "only opened": "<tool_call>",
    "only closed": "</tool_call>",
    "empty": "<tool_call></tool_call>",
    "blank": "<tool_call> </tool_call>",
    "prose": "<tool_call>zoom in</tool_call>",
    "list": "<tool_call>[1, 2]</tool_call>",
    "null": "<tool_call>null</tool_call>",
    "no name": f'<tool_call>{{"arguments": {{"bbox_2d": {BOX}}}}}</tool_call>',
    "no arguments": '<tool_call>{"name": "image_zoom_in_tool"}</tool_call>',
    "name is a number": '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
    "arguments are a list": call(BOX),
    "arguments are text": call(f'"{{\\"bbox_2d\\": {BOX}}}"'),
    "unknown tool": call(name="image_crop_tool"),
    "no box": call("{}"),
    "bbox": call(f'{{"bbox": {BOX}}}'),
    "box as text": boxed(f'"{BOX}"'),
    "numbers as text": boxed('["100", "200", "300", "400"]'),
    "true": boxed("[true, 200, 300, 400]"),
    "three numbers": boxed("[100, 200, 300]"),
    "five numbers": boxed("[100, 200, 300, 400, 1]"),
    "nested": boxed(f"[{BOX}]"),
    "not a number": boxed("[NaN, 200, 300, 400]"),
    "infinite": boxed("[100, 200, Infinity, 400]"),
    "1e999": boxed("[100, 200, 1e999, 400]"),
    "shares": boxed("[0.1, 0.2, 0.3, 0.4]"),
    "tiny": boxed("[500, 500, 502, 502]"),
    "reversed": boxed("[300, 400, 100, 200]"),
    "over the edge": boxed("[-50, 800, 1400, 1200]"),
    "outside": boxed("[9200, 9200, 9300, 9300]"),
    "extra argument": call(f'{{"bbox_2d": {BOX}, "angle": 90}}'),
    "another image": call(f'{{"bbox_2d": {BOX}, "image": 7}}'),
    "deep": "<tool_call>" + "[" * 300 + "</tool_call>",
    "long number": boxed("[" + "9" * 40 + ", 1, 2, 3]"),
    "upper case": CALL.replace("tool_call", "TOOL_CALL"),
}
# Every call with the usual thought, every head with a few of the calls.
PAIRS = [("thought", name) for name in CALLS]
PAIRS += list(product(HEADS, ("none", "usual", "copies", "single quotes", "only opened")))
REPLIES = {f"{head}, {name}": HEADS[head].format(CALLS[name]) for head, name in PAIRS}
