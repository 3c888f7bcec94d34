"""`make app`: the page that it serves asks for a token and answers to this machine's names only."""

import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import nbformat

ROOT = Path(__file__).parents[2]
OPEN = build_opener(ProxyHandler({})).open


def status(url, **headers):
    try:
        with OPEN(Request(url, headers=headers), timeout=60) as response:
            return response.status, response.url
    except HTTPError as error:
        return error.code, url


def test_the_app_wants_a_token_and_refuses_a_foreign_host(tmp_path):
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (options,) = (line.removeprefix("APP := ") for line in text.splitlines() if line[:4] == "APP ")
    assert "$(APP)" in text and "cull_idle_timeout=300" in options
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('here')")])
    nbformat.write(book, tmp_path / "page.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", "--no-browser", f"--port={port}"]
    command += [*shlex.split(options), "--Voila.token=s3cret", str(tmp_path / "page.ipynb")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        began = time.monotonic()
        while "running at" not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() - began < 300
            time.sleep(0.1)
        url = f"http://localhost:{port}/"
        assert "/login" in status(url)[1]
        for address in (url, url + "?token=s3cret"):
            assert status(address, Host="evil.example")[0] == 403
        assert status(url + "?token=s3cret") == (200, url + "?token=s3cret")
    finally:
        process.terminate()  # its kernels, too
        process.wait()
