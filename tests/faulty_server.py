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
CALL = {"name": "image_zoom_in_tool", "arguments": '{"bbox_2d": [10, 20, 100, 200]}'}
log = defaultdict(list)  # mode -> requests: headers, body
flying = defaultdict(int)
most = defaultdict(int)
lock = threading.Lock()


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


def answer(mode, number, body, headers):
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
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        case "locked":
            return 401, {"error": f"Incorrect key: {headers.get('Authorization')}"}
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
        case "long-winded":
            return completion("<think>" + "no, " * 100_000)
        case "surrogates":
            return completion("<answer>\ud800K\x1b[2J</answer>")
        case "parsed" | "short" if first:
            return completion(None, reasoning_content="Hm.", tool_calls=[{"function": CALL}])
        case "deepeyes" if first:
            return completion(f"<think>Hm.</think> <tool_call>\n{ZOOM}\n</tool_call>")
        case "goes-on":
            return completion(f"<answer>K</answer><|im_end|>\n{ANSWER}")
        case "crowd":
            time.sleep(0.1)
        case "halts" if number == 4:
            return 403, {"error": "no credit left"}
        case "judge":
            return completion(judge(*messages))
    return completion()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        mode, path = self.path[1:].split("/", 1)
        names = ["the-model"] if mode == "one" else ["a", "b"]
        listed = {"data": [{"id": name} for name in names]}
        self.send(200, {"requests": log[mode], "most": most[mode]} if path == "log" else listed)

    def do_POST(self):
        mode = self.path[1:].removesuffix("/v1/chat/completions")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            log[mode].append({"headers": headers, "body": body})
            number = len(log[mode])
            flying[mode] += 1
            most[mode] = max(most[mode], flying[mode])
        if mode == "closed":
            self.close_connection = True
        else:
            self.send(*answer(mode, number, body, self.headers))
        with lock:
            flying[mode] -= 1

    def send(self, status, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Location", "/moved-on/v1/chat/completions")  # read where 307 stands above
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # the client has had enough


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
