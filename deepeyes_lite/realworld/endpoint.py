"""A client for OpenAI-compatible servers (vLLM, SGLang, ``transformers serve``): patient, and bounded.

Plain HTTP, because an answer that is too large, too slow or no answer at all has to end in a clear error,
and because a photo must not be lost to a busy server: the public clients bound neither size nor time.
"""

import json
import os
import random
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Semaphore
from urllib.parse import urlsplit

import httpx2

KEY = "DEEPEYES_API_KEY"  # environment variable; never OPENAI_API_KEY, which is for one server only
MAX_BODY_BYTES = 2_000_000  # of an answer
MAX_WAIT = 120.0  # seconds between two attempts
RETRIED = (408, 425, 429, 500, 502, 503, 504)

_TOO_LONG = re.compile(
    r"context.?(length|window|size)|max_model_len|maximum (model|allowed) length|prompt is too long",
    re.IGNORECASE,
)


class EndpointError(RuntimeError):
    """The server cannot be used as asked; the message says what to do."""


class ConversationError(EndpointError):
    """This conversation cannot go on, another may: it outgrew the context, or the answer its bound."""


class Endpoint:
    """A served model, and how patiently it is asked."""

    def __init__(
        self,
        url: str,
        model: str | None = None,
        timeout: float = 120.0,
        retries: int = 4,
        concurrency: int = 8,
    ):
        """Args: address, with or without ``/v1``; name of the model, needed where several are served;
        seconds for one answer; further attempts; requests at a time, of all threads together. A key is read
        from the environment (``KEY``).

        Raises:
            ValueError: for an address that is none, a key with odd characters, a bound below its least.
            EndpointError: if no model was named and the server does not serve just one.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError(
                f"an endpoint's address is like http://localhost:8000/v1, without a password; "
                f"got {parts._replace(netloc=parts.netloc.split('@')[-1]).geturl()!r}"
            )
        if timeout <= 0 or retries < 0 or concurrency < 1:
            raise ValueError("timeout is above 0, retries at least 0, concurrency at least 1")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        self.url = f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
        self.timeout, self.retries, self.concurrency = timeout, retries, concurrency
        self._slots = Semaphore(concurrency)
        # A compressed answer could grow without bound while it is unpacked.
        headers = {"Accept-Encoding": "identity"}
        if key := os.environ.get(KEY, "").strip():
            if not re.fullmatch(r"[!-~]+", key):
                raise ValueError(f"the key in {KEY} has spaces or other odd characters")
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.Client(headers=headers, timeout=timeout)
        self.model = model or self._only_model()

    def complete(self, messages: list[dict], **options) -> dict:
        """The assistant message that continues a conversation.

        Busy, broken and slow servers are asked again, with growing pauses and not before they allow it.

        Args:
            messages: in OpenAI's form.
            **options: further fields of the request, such as ``temperature``.

        Raises:
            ConversationError: if this conversation cannot be continued.
            EndpointError: if the server cannot be reached or refuses.
        """
        body = {"model": self.model, "messages": messages, **options}
        for attempt in range(self.retries + 1):
            wait = 0.0
            try:
                status, headers, data = self._request("POST", "/chat/completions", body)
                if status == 200:
                    if message := _message(data):
                        return message
                    problem = (
                        f"sends no chat completion but {_said(data)!r}; is it an OpenAI server?"
                    )
                elif status in RETRIED:
                    problem = f"answers {status} ({_said(data)})"
                    wait = _retry_after(headers.get("retry-after", ""))
                else:
                    raise self._refusal(status, _said(data))
            except httpx2.ConnectError as error:
                problem = f"cannot be reached ({error}); is the server running, and the port right?"
            except httpx2.TimeoutException:
                problem = f"gave no answer within {self.timeout:g} s; raise timeout or ask fewer at a time"
            except httpx2.TransportError as error:
                problem = f"broke off ({error})"
            if wait > MAX_WAIT:
                raise EndpointError(
                    f"{self.url} {problem} and asks to wait {wait:.0f} s; try later"
                )
            if attempt < self.retries:
                # Jitter: eight requests that fail together should not come back together.
                time.sleep(wait + min(MAX_WAIT, 0.5 * 2**attempt) * random.uniform(0.5, 1))
        raise EndpointError(f"{self.url} {problem} ({self.retries + 1} attempts)")

    def models(self) -> list[str]:
        """Names of the served models; empty if the server does not say."""
        try:
            status, _, data = self._request("GET", "/models")
            return [str(row["id"])[:200] for row in json.loads(data)["data"][:20]]
        except (EndpointError, httpx2.HTTPError, ValueError, RecursionError, TypeError, KeyError):
            return []

    def _only_model(self) -> str:
        names = self.models()
        if len(names) != 1:
            raise EndpointError(
                f"name a model; {self.url}/models "
                + (f"lists {', '.join(names)}" if names else "lists none, or no server runs there")
            )
        return names[0]

    def _request(self, method: str, path: str, body: dict | None = None):
        """Status, headers and body, within the bounds of time and size."""
        data = bytearray()
        with self._slots:
            deadline = time.monotonic() + self.timeout
            with self._client.stream(method, self.url + path, json=body) as response:
                for chunk in response.iter_raw():
                    data += chunk
                    if len(data) > MAX_BODY_BYTES:
                        raise ConversationError(
                            f"{self.url} sends more than {MAX_BODY_BYTES} bytes"
                        )
                    if time.monotonic() > deadline:  # httpx2 bounds each chunk only
                        raise httpx2.ReadTimeout("too slow")
        return response.status_code, response.headers, bytes(data)

    def _refusal(self, status: int, said: str) -> EndpointError:
        if status == 413 or (status in (400, 422) and _TOO_LONG.search(said)):
            return ConversationError(
                f"the conversation is too long for {self.model} ({said}); "
                "lower max_pixels, or serve the model with a longer context"
            )
        if status in (401, 403):
            return EndpointError(
                f"{self.url} refuses the key ({said}); put it into the environment variable {KEY}"
            )
        named = re.search(f"['\"`]{re.escape(self.model)}['\"`]", said)
        if status == 404 or (status == 400 and named):
            served = ", ".join(self.models()) or "no list"
            return EndpointError(
                f"{self.url} does not serve {self.model!r} ({said}); it serves: {served}"
            )
        return EndpointError(f"{self.url} refuses the request ({status}: {said})")


def _message(data: bytes) -> dict | None:
    """The first choice's message; None if there is none."""
    try:
        message = json.loads(data)["choices"][0]["message"]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError):
        return None
    return message if isinstance(message, dict) else None


def _said(data: bytes) -> str:
    """A server's explanation, as one short line."""
    found = data.decode("utf-8", "replace")
    try:
        found = json.loads(found)
        for name in ("error", "message", "detail"):
            found = found.get(name, found) if isinstance(found, dict) else found
    except (ValueError, RecursionError):
        pass
    text = found if isinstance(found, str) else json.dumps(found)
    return "".join(c if c.isprintable() else " " for c in text[:300]).strip()


def _retry_after(value: str) -> float:
    """Seconds that a server asks to wait: a number or a date; 0 for anything else.

    >>> _retry_after("7"), _retry_after("soon"), _retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, 0.0, 0.0)
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return seconds if seconds > 0 else 0.0  # NaN fails the comparison
