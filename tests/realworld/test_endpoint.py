"""endpoint.py against a server process on loopback that fails in every way we know of."""

import json
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from deepeyes_lite.realworld.endpoint import KEY, ConversationError, Endpoint, EndpointError

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def to(faulty):
    """An impatient client of one of the server's modes."""
    return lambda mode, **options: Endpoint(
        f"{faulty}/{mode}/v1", **{"model": "m", "timeout": 10, "retries": 1, **options}
    )


@pytest.fixture
def asked(faulty):
    """What the server was asked in a mode."""

    def read(mode):
        with urllib.request.urlopen(f"{faulty}/{mode}/log", timeout=10) as response:
            return json.load(response)

    return read


# --- what goes well -----------------------------------------------------------------------------


def test_the_request_is_openai_s(to, asked, monkeypatch):
    monkeypatch.setenv(KEY, " s3cret\n")
    message = to("plain").complete(HELLO, temperature=0.5, max_tokens=7)
    assert message["content"].endswith("<answer>K</answer>")
    (request,) = asked("plain")["requests"]
    assert request["body"] == {
        "model": "m",
        "messages": HELLO,
        "temperature": 0.5,
        "max_tokens": 7,
    }
    assert request["headers"]["Authorization"] == "Bearer s3cret"
    monkeypatch.delenv(KEY)
    to("keyless").complete(HELLO)
    assert "Authorization" not in asked("keyless")["requests"][0]["headers"]


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_addresses_are_completed(tail):
    assert Endpoint(f"http://localhost:8000{tail}", "m").url == "http://localhost:8000/v1"


def test_the_only_model_need_not_be_named(faulty):
    assert Endpoint(f"{faulty}/one/v1").model == "the-model"
    with pytest.raises(EndpointError, match="name a model; .*/two/v1/models lists a, b"):
        Endpoint(f"{faulty}/two/v1")
    with pytest.raises(EndpointError, match="lists none, or no server runs there"):
        Endpoint(f"{faulty}/closed/v1")


# --- what passes --------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again_not_before_it_allows_it(to, asked):
    assert to("busy", retries=2).complete(HELLO)
    first, second, third = (request["time"] for request in asked("busy")["requests"])
    assert second - first >= 0.7 + 0.25 and third - second >= 0.7 + 0.5


@pytest.mark.parametrize("mode", ["broken-once", "cut-once"])
def test_what_passes_is_waited_for(mode, to, asked):
    assert to(mode).complete(HELLO)["role"] == "assistant"
    assert len(asked(mode)["requests"]) == 2


# --- what does not ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("broken", r"answers 500 \(Internal Server Error  \[31m\) \(2 attempts\)"),
        ("closed", r"broke off \(.*\) \(2 attempts\)"),
        (
            "garbage",
            "sends no chat completion but '<html>It works!</html>'; is it an OpenAI server",
        ),
        ("misshapen", "sends no chat completion"),
        ("nested", "sends no chat completion"),
        ("slow", r"gave no answer within 0.4 s; .* \(2 attempts\)"),
        ("drip", r"gave no answer within 0.4 s; .* \(2 attempts\)"),
    ],
)
def test_what_goes_on_failing_is_given_up(mode, message, to, asked):
    start = time.monotonic()
    with pytest.raises(EndpointError, match=message) as caught:
        to(mode, timeout=0.4 if mode in ("slow", "drip") else 10).complete(HELLO)
    assert not isinstance(caught.value, ConversationError)
    assert len(asked(mode)["requests"]) == 2 and time.monotonic() - start < 8


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("come-back-tomorrow", "answers 429 .enough. and asks to wait 86400 s; try later"),
        ("other-model", "does not serve 'm' .The model `m` does not exist.*it serves: a, b"),
        ("locked", "refuses the key .Unauthorized.; put it into .* DEEPEYES_API_KEY"),
        ("moved", r"refuses the request \(307"),
        ("no-parser", r'refuses the request \(400: "auto" tool choice requires'),
    ],
)
def test_what_cannot_get_better_is_said_at_once(mode, message, to, asked):
    with pytest.raises(EndpointError, match=message) as caught:
        to(mode).complete(HELLO)
    assert not isinstance(caught.value, ConversationError)
    assert len(asked(mode)["requests"]) == 1


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("short", "too long for m .This model's maximum context.*lower max_pixels"),
        ("huge", "sends more than 2000000 bytes"),
    ],
)
def test_what_is_wrong_with_one_conversation_is_told_apart(mode, message, to):
    with pytest.raises(ConversationError, match=message):
        to(mode).complete([{"role": "user", "content": "long"}])


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match=f"{port}/v1 cannot be reached .*is the server running"):
        Endpoint(f"http://127.0.0.1:{port}", "m", retries=0).complete(HELLO)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "file:///etc/passwd", "http://", "", "http://[::1"]
)
def test_an_address_that_is_none(url):
    with pytest.raises(ValueError, match="address|IPv6"):
        Endpoint(url, "m")


def test_no_secret_is_shown(monkeypatch, faulty):
    with pytest.raises(ValueError, match="without a password; got 'http://h/v1'"):
        Endpoint("http://me:s3cret@h/v1", "m")
    monkeypatch.setenv(KEY, "s3cret key")
    with pytest.raises(ValueError, match="odd characters") as caught:
        Endpoint("http://h/v1", "m")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("bound", [{"timeout": 0}, {"retries": -1}, {"concurrency": 0}])
def test_bounds_have_their_least(bound):
    with pytest.raises(ValueError, match="at least"):
        Endpoint("http://h", "m", **bound)


def test_threads_share_one_client_and_its_bound(to, asked):
    endpoint = to("queue", concurrency=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: endpoint.complete(HELLO)["role"], range(12)))
    assert len(found) == len(asked("queue")["requests"]) == 12 and asked("queue")["most"] == 2
