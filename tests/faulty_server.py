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


def answer(mode, number, messages, key):
    """Status and body of the answer to a mode's request of that number."""
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
        case "no-parser":
            return 400, {"message": '"auto" tool choice requires --enable-auto-tool-choice'}
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
            call = f'{{"name": "{CALL["name"]}", "arguments": {CALL["arguments"]}}}'
            return completion(f"<think>Hm.</think> <tool_call>\n{call}\n</tool_call>")
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
        self.send(*answer(mode, len(log[mode]), body["messages"], key))

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
