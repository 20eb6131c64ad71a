"""A connection whose other side is gone without a word. In a network of its own, which is then switched off."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import fcntl, socket, struct, sys, threading, time

from frazil import _http
from frazil._config import Settings
from frazil.errors import ServerUnreachable

IS_UP = 1


def switch(on):
    with socket.socket() as control:
        name = struct.pack("16sH14x", b"lo", IS_UP if on else 0)
        fcntl.ioctl(control, 0x8914, name)  # SIOCSIFFLAGS


switch(True)
listener = socket.create_server(("127.0.0.1", 0))
asked = threading.Event()


def serve():
    connection, _ = listener.accept()
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
    if sys.argv[1] == "sent":
        asked.set()
    connection.recv(65_536)
    asked.set()
    time.sleep(600)


threading.Thread(target=serve, daemon=True).start()
_http.SILENT_SECONDS_MAX = 5.0
_http.RETRY_SECONDS = 0.0
transport = _http.Transport(Settings(address=f"http://127.0.0.1:{listener.getsockname()[1]}", token="frz_x"))
transport.get("/v1/me")


def cut():
    asked.wait()
    switch(False)
    print("cut", time.monotonic(), flush=True)


cutting = threading.Thread(target=cut)
cutting.start()
if sys.argv[1] == "sent":
    cutting.join()
try:
    transport.get("/v1/jobs", wait_s=60.0)
except ServerUnreachable:
    print("noticed", time.monotonic(), flush=True)
"""


def can_have_a_network_of_its_own() -> bool:
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not can_have_a_network_of_its_own(), reason="no network namespaces here")
@pytest.mark.parametrize("when", ["waiting", "sent"])
def test_a_peer_that_is_gone_without_a_word_is_noticed_long_before_the_answer_is_due(when: str) -> None:
    """`waiting`: for an answer that may take two minutes. `sent`: a kept connection takes what goes out to nobody."""
    output = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", SCRIPT, when], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    cut, noticed = (line.split() for line in output.splitlines())
    assert [cut[0], noticed[0]] == ["cut", "noticed"]
    assert float(noticed[1]) - float(cut[1]) < 20.0
