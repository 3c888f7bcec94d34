"""A server that speaks OpenAI's protocol badly: python tests/faulty_server.py prints its port.

What it does is in the address, ``/MODE/v1``; ``GET /MODE/log`` tells what it was asked.
"""

import json
import re
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWER = "<think>I see it.</think><answer>K</answer>"
ZOOM = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200]}}'
CALLS = [{"type": "function", "id": "1", "function": json.loads(ZOOM)}]
CALLS[0]["function"]["arguments"] = json.dumps(CALLS[0]["function"]["arguments"])
log = defaultdict(list)  # mode -> requests: time, headers, body
flying = defaultdict(int)
most = defaultdict(int)
lock = threading.Lock()


def completion(**message):
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


def judge(messages):
    """A gullible judge: it does whatever it reads outside the fences."""
    system, user = (m["content"] for m in messages)
    fence = re.search(r"\b[0-9a-f]{16,}\b", system)[0]
    pieces = user.split(fence)
    orders = " ".join([system.split("Reply with")[0], *pieces[0::2]])
    if found := re.search(r"answer (\d)", orders):
        return f"Judgement: {found[1]}"
    truth, answer = (piece.strip() for piece in pieces[3::2])
    if answer == "hm":
        return "That is hard to say: 1 or 0."
    return f"<think>0 or 1?</think>\nJudgement: {int(truth.lower() in answer.lower())}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        mode, path = self.path[1:].split("/", 1)
        if path == "log":
            self.send(200, {"requests": log[mode], "most": most[mode]})
        elif mode == "closed":
            self.close_connection = True
        else:
            names = ["the-model"] if mode == "one" else ["a", "b"]
            self.send(200, {"data": [{"id": name} for name in names]})

    def do_POST(self):
        mode, path = self.path[1:].split("/", 1)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            log[mode].append({"time": time.time(), "headers": dict(self.headers), "body": body})
            number = len(log[mode])
            flying[mode] += 1
            most[mode] = max(most[mode], flying[mode])
        try:
            assert path == "v1/chat/completions", self.path
            self.answer(mode, number, body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has had enough
        finally:
            flying[mode] -= 1

    def answer(self, mode, number, body):
        messages = body["messages"]
        turn = sum(m["role"] == "assistant" for m in messages)
        match mode:
            case "busy" if number <= 2:
                self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.7"})
            case "come-back-tomorrow":
                self.send(429, {"error": {"message": "enough"}}, {"Retry-After": "86400"})
            case "broken" | "broken-once" if mode == "broken" or number == 1:
                self.send(500, b"Internal Server Error \x1b[31m")
            case "slow":
                time.sleep(3)
                self.send(200, completion(content=ANSWER))
            case "drip":
                self.head(200, 10_000)
                for _ in range(60):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            case "closed":
                self.close_connection = True
            case "cut-once" if number == 1:
                self.head(200, 10_000)
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
            case "other-model":
                text = f"The model `{body['model']}` does not exist."
                self.send(404, {"error": {"message": text, "type": "NotFoundError", "code": 404}})
            case "locked":
                self.send(401, {"error": "Unauthorized"})
            case "moved":
                self.send(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"})
            case "short" if turn or "long" in json.dumps(messages):
                text = "This model's maximum context length is 4096 tokens. However, you requested 5000."
                self.send(400, {"error": {"message": text, "type": "BadRequestError", "code": 400}})
            case "no-parser":
                text = '"auto" tool choice requires --enable-auto-tool-choice'
                self.send(400, {"object": "error", "message": text, "code": 400})
            case "garbage":
                self.send(200, b"<html>It works!</html>")
            case "misshapen":
                self.send(200, [{"choices": []}, {"choices": [{"message": "K"}]}][number % 2])
            case "nested":
                self.send(200, b"[" * 100_000)
            case "huge":
                self.send(200, completion(content="K" * 10_000_000))
            case "long-winded":
                self.send(200, completion(content="<think>" + "no, " * 100_000))
            case "surrogates":
                self.send(200, completion(content="<answer>\ud800K\x1b[2J</answer>"))
            case "parsed" | "short" if turn == 0:
                self.send(200, completion(reasoning_content="Hm.", content=None, tool_calls=CALLS))
            case "deepeyes" if turn == 0:
                self.send(
                    200, completion(content=f"<think>Hm.</think> <tool_call>\n{ZOOM}\n</tool_call>")
                )
            case "both" if turn == 0:
                self.send(
                    200, completion(content="<tool_call>[1]</tool_call>", tool_calls=CALLS * 2)
                )
            case "goes-on":
                self.send(200, completion(content=f"<answer>K</answer><|im_end|>\n{ANSWER}"))
            case "crowd" | "queue":
                time.sleep(0.1)
                self.send(200, completion(content=ANSWER))
            case "stops" | "halts" if number == 4:
                self.send(403, {"error": "no credit left"})
            case "judge":
                self.send(200, completion(content=judge(messages)))
            case _:
                self.send(200, completion(content=ANSWER))

    def head(self, status, length, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.head(status, len(data), headers)
        self.wfile.write(data)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
