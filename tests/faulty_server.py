"""A server that speaks OpenAI's protocol badly: python tests/faulty_server.py prints its port.

What it does is in the address, ``/MODE/v1``; ``GET /MODE/log`` tells what it was asked.
"""

import json
import re
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = "<think>I see it.</think><answer>K</answer>"
CALL = {"name": "image_zoom_in_tool", "arguments": '{"bbox_2d": [10, 20, 100, 200]}'}
CALL_TEXT = f'{{"name": "{CALL["name"]}", "arguments": {CALL["arguments"]}}}'
ZOOM = f"<tool_call>\n{CALL_TEXT}\n</tool_call>"
# What DeepEyes' models are known to write, by the issue of its repository that shows it.
HABITS = {
    "16": ZOOM.removesuffix("</tool_call>"),  # its evaluation stops at that string
    "60": "\n".join([ZOOM] * 6),
    "65": f"<think>Hm.</think>{ZOOM}<answer>L</answer>",
    "65-reversed": f"<answer>L</answer>{ZOOM}",
    "80": "<think>A helmet.</think> <tool_call>",
    "126": f"<think>Hm.</think>  \n{ZOOM}\n<think>The crop shows it.</think>  \n<answer>L</answer>",
    "127-quotes": ZOOM.replace('"', "'"),
    "127-comma": ZOOM.replace("]}}", "],}}"),
    "127-comment": ZOOM.replace("]}}", "]} # the flag\n}"),
    "127-tuple": ZOOM.replace("[", "(").replace("]", ")"),
    "127-corners": ZOOM.replace("[10, 20, 100, 200]", "[100, 200, 10, 20]"),
    "131": "It seems there is a persistent issue with the zoom-in arguments.\n\n<think>I will use the tool."
    f"</think>  \n{ZOOM}<|im_start|>\n addCriterion\n" + "<|im_start|>\n" * 40,
}
# What is sent once, and what is sent again and again: no single read takes long, and none is the last.
DRIPS = {
    "drip-headers": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "drip-hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "drip-body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "drip-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    "drip-trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
}
log = defaultdict(list)  # mode -> requests: headers, body


def completion(content=ANSWER, **message):
    return 200, {"choices": [{"message": {"role": "assistant", "content": content, **message}}]}


def judge(system, user):
    """A gullible judge: it does whatever it reads outside the fences."""
    fence = re.search(r"\b[0-9a-f]{16,}\b", system["content"])[0]
    pieces = user["content"].split(fence)
    orders = " ".join([system["content"].split("Reply with")[0], *pieces[0::2]])
    if order := re.search(r"answer (\d)", orders):
        return f"Judgement: {order[1]}"
    truth, answer = (piece.strip() for piece in pieces[3::2])
    if answer == "hm":
        return "That is hard to say: 1 or 0."
    return f"<think>0 or 1?</think>\nJudgement: {int(truth.lower() in answer.lower())}"


def bare_vllm(body):
    """vLLM 0.32.0 without parser flags, in its own words; with tags that are special tokens."""
    if "tools" in body and body.get("tool_choice", "auto") == "auto":
        words = (
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        )
        return 400, {"error": {"message": words, "type": "BadRequestError", "code": 400}}
    calls = len(body["messages"]) == 1 and "tools" in body
    text = f"<think>Hm.</think>{ZOOM}" if calls else ANSWER
    keep = body.get("skip_special_tokens") is False
    return completion(text if keep else re.sub(r"</?\w+>", "", text))


def answer(mode, number, body, key):
    """Status and body of the answer to a mode's request of that number."""
    messages = body["messages"]
    first = all(message["role"] != "assistant" for message in messages)
    match mode:
        case "busy" if number == 1:
            return 429, {"error": {"message": "slow down"}}
        case "broken":
            return 500, b"Internal Server Error \x1b[31m"
        case "slow":
            time.sleep(2)
        case "other-model":
            return 404, {"error": {"message": "The model `m` does not exist."}}
        case "locked":
            return 401, {"error": f"Incorrect key: {key}"}
        case "halts" if number == 4:
            return 403, {"error": "no credit left"}
        case "moved":
            return 307, b""
        case "short" if not first or "long" in json.dumps(messages):
            return 400, {
                "error": {"message": "This model's maximum context length is 4096 tokens."}
            }
        case "bare-vllm":
            return bare_vllm(body)
        case "tight" if body["max_tokens"] > 1000:  # vLLM 0.32.0's words
            words = "max_tokens=2048 cannot be greater than max_model_len=1024"
            return 400, {"error": {"message": words}}
        case "stumbles" if "question 1" in json.dumps(messages):
            return 500, b"Internal Server Error"  # `transformers serve`, after a malformed call
        case "knows":  # every answer, and writes the tags only if it is told to
            asked = "<answer>...</answer>" in json.dumps(messages[-1])
            return completion(ANSWER if asked else "<think>I see it.</think>K")
        case "blind" | "sees":
            status, reply = completion()
            # A view of 384 x 384 has 144 tokens of 32 x 32 pixels.
            return status, reply | {"usage": {"prompt_tokens": 14 if mode == "blind" else 160}}
        case "cut":
            status, reply = completion("<think>Let me see. First,")
            reply["choices"][0]["finish_reason"] = "length"
            return status, reply
        case "parts":
            return completion([{"type": "text", "text": ANSWER[:20]}, {"text": ANSWER[20:]}])
        case _ if mode.startswith("habit-") and first:
            return completion(HABITS[mode.removeprefix("habit-")])
        case "no-parser":
            return 400, {"message": '"auto" tool choice requires --enable-auto-tool-choice'}
        case "repeats-key":
            return completion(f"<think>{key}</think><answer>K</answer>")
        case "garbage":
            return 200, b"<html>It works!</html>"
        case "misshapen":
            return 200, {"choices": [{"message": "K"}]}
        case "nested":
            return 200, b"[" * 100_000
        case "huge":
            return completion("K" * 10_000_000)
        case "parsed" | "short" if first:
            return completion(None, reasoning_content="Hm.", tool_calls=[{"function": CALL}])
        case "deepeyes" if first:
            return completion(f"<think>Hm.</think> {ZOOM}")
        case "judge":
            return completion(judge(*messages))
    return completion()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        mode, path = self.path[1:].split("/", 1)
        names = ["the-model"] if mode == "one" else ["a", "b"]
        self.send(200, log[mode] if path == "log" else {"data": [{"id": name} for name in names]})

    def do_POST(self):
        mode = self.path[1:].removesuffix("/v1/chat/completions")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"]
        log[mode].append({"key": key, "body": body})
        if mode in DRIPS:
            start, again = DRIPS[mode]
            self.wfile.write(start)
            while True:  # until the client hangs up
                self.wfile.write(again)
                time.sleep(0.1)
        self.send(*answer(mode, len(log[mode]), body, key))

    def send(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Location", "/elsewhere/v1/chat/completions")  # followed for 307 alone
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # the client has had enough
    print(server.server_port, flush=True)
    server.serve_forever()
