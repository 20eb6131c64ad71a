"""Kept-alive HTTP with retries: one `Transport` per server address and token.

urllib3, because a request over a warm connection costs 0.2 ms (httpx: 0.3 ms; bare http.client: 0.1 ms, but without a
thread-safe pool, TLS and proxy handling, or a check for connections that the server has closed), and because it streams
a request body from a generator.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from frazil._remote_errors import problem_error
from frazil._version import __version__
from frazil.errors import FrazilError, NotConfigured, ServerError, ServerUnreachable, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import urllib3

    from frazil._config import Settings

RETRY_SECONDS = 30.0
"""How long one request is retried in all, from its first failure on, when the server was there before. The first try
does not count: the server may hold the answer back on purpose, and a peer that is gone is noticed late."""
FIRST_CONTACT_SECONDS = 0.5
"""The same with the first try, while nothing has ever answered at the address: it is more likely wrong than restarting,
and each try to connect may take long."""
BACKOFF_FIRST_SECONDS = 0.05
BACKOFF_MAX_SECONDS = 2.0
CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 60.0
"""For an answer that is not waited for on purpose; a wait adds its own time."""
SILENT_SECONDS_MAX = 25.0
"""How long the other side of a connection may not so much as acknowledge anything: a peer that is gone without a word,
or a network that drops everything, is noticed after this, however long the answer may take."""
PROBES = 3
"""Of an idle connection, within the last part of that time."""
LATE_SECONDS_MAX = 1.0
"""How long after a caller's deadline an answer may come that the server held back until then."""
PIECE_BYTES = 64 * 1024
"""A body is sent in pieces of at most this size: each of them is given `CONNECT_TIMEOUT_SECONDS`, not all of it."""
CONNECTIONS_MAX = 16
ANSWER_BYTES_MAX = 256 * 1024 * 1024

_TRY_SECONDS_MIN = 0.01
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_RETRIED_CODES = frozenset({None, "unavailable", "too_many_requests"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def quote_id(value: str) -> str:
    return quote(value, safe="")


class OutOfTime(Exception):
    """A request took longer than its caller had for it. Its cause is what happened last."""


class Transport:
    """Talks to one server. Safe to share between threads, and after a fork."""

    def __init__(self, settings: Settings) -> None:
        self.address = settings.address
        self._headers = {
            "authorization": f"Bearer {settings.token}",
            "accept": "application/json",
            "user-agent": f"frazil-python/{__version__}",
        }
        self._prefix = urlsplit(settings.address).path.rstrip("/")
        self._lock = threading.Lock()
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._pool_pid = -1
        self._answered = False

    def get(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        wait_s: float = 0.0,
        within_s: float | None = None,
    ) -> Any:
        """GET, parsed. `wait_s` is how long the server may hold the answer back.

        Raises
        ------
        OutOfTime
            There is no answer after `within_s`, however often it was tried.
        """
        return self._json("GET", path, query, None, {}, wait_s, within_s)

    def post(
        self,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        *,
        wait_s: float = 0.0,
    ) -> Any:
        """POST of JSON, parsed. Carries an idempotency key minted here, so that a repeat is harmless."""
        headers = {"idempotency-key": uuid.uuid4().hex}
        data = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
            headers["content-type"] = "application/json"
        return self._json("POST", path, query, data, headers, wait_s)

    def post_lines(self, path: str, make_lines: Callable[[], Iterable[bytes]]) -> Any:
        """POST of NDJSON, streamed in chunks. `make_lines` is called again for a repeat."""
        headers = {"idempotency-key": uuid.uuid4().hex, "content-type": "application/x-ndjson"}
        return self._json("POST", path, None, make_lines, headers, 0.0)

    def stream(self, path: str, query: Mapping[str, Any] | None, *, read_timeout_s: float) -> Iterator[bytes]:
        """Chunks of a long answer (server-sent events), as they come. Not retried."""
        import urllib3

        headers = {**self._headers, "accept": "text/event-stream"}
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=read_timeout_s)
        response = self._send("GET", self._target(path, query), None, headers, timeout, preload=False)
        try:
            if response.status != 200:
                raise self._error(response.status, response.headers, response.read(1_000_000))
            while chunk := response.read1(65_536):  # What is there, without waiting for more.
                yield chunk
        finally:
            response.close()
            response.release_conn()

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: bytes | Callable[[], Iterable[bytes]] | None,
        headers: dict[str, str],
        wait_s: float,
        within_s: float | None = None,
    ) -> Any:
        import urllib3

        target = self._target(path, query)
        headers = {**self._headers, **headers}
        budget, attempt = _Budget(within_s), 0
        while True:
            attempt += 1
            given = body() if callable(body) else body
            delay_s = min(backoff_seconds(attempt), budget.left())
            timeout = urllib3.Timeout(
                connect=min(CONNECT_TIMEOUT_SECONDS, budget.left()),
                read=min(READ_TIMEOUT_SECONDS + wait_s, budget.left()),
            )
            try:
                response = self._send(method, target, given, headers, timeout)
            except urllib3.exceptions.HTTPError as error:
                failure: FrazilError = self._unreachable(error)
                failure.__cause__ = error
            else:
                self._answered = True
                if 200 <= response.status < 300:
                    return self._parsed(response.headers, response.data)
                failure = self._error(response.status, response.headers, response.data)
                known = failure.code if "problem+json" in response.headers.get("content-type", "") else None
                if response.status not in _RETRIED_STATUSES or known not in _RETRIED_CODES:
                    raise failure
                delay_s = min(max(delay_s, _retry_after(response.headers)), budget.left())
            if not budget.allows(delay_s, answered=self._answered):
                if budget.is_spent():
                    raise OutOfTime from failure
                raise failure
            time.sleep(delay_s)

    def _send(
        self,
        method: str,
        target: str,
        body: Any,
        headers: dict[str, str],
        timeout: urllib3.Timeout,
        *,
        preload: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        pool = self._connections()
        if pool.proxy is not None and pool.scheme == "http":  # A plain proxy is asked with the whole address.
            parts = urlsplit(self.address)
            target = f"{parts.scheme}://{parts.netloc}{target}"
        chunked = False
        if isinstance(body, bytes):
            if len(body) > PIECE_BYTES:
                headers = {**headers, "content-length": str(len(body))}
                body = _pieces([body])
        elif body is not None:
            chunked = True
            body = _pieces(body)
        return pool.urlopen(
            method,
            target,
            body=body,
            headers=headers,
            timeout=timeout,
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=preload,
            chunked=chunked,
        )

    def _connections(self) -> urllib3.HTTPConnectionPool:
        # A child of a fork must not write into its parent's sockets.
        pid = os.getpid()
        if self._pool is None or self._pool_pid != pid:
            if self._pool_pid != pid:
                self._lock = threading.Lock()
            with self._lock:
                if self._pool is None or self._pool_pid != pid:
                    self._pool, self._pool_pid = _open_pool(self.address), pid
        return self._pool

    def _target(self, path: str, query: Mapping[str, Any] | None) -> str:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return f"{self._prefix}{path}?{urlencode(given, doseq=True)}" if given else f"{self._prefix}{path}"

    def _parsed(self, headers: Any, data: bytes) -> Any:
        if len(data) > ANSWER_BYTES_MAX:
            raise ServerError(f"the server's answer is larger than {ANSWER_BYTES_MAX} bytes")
        try:
            return json.loads(data) if data else None
        except ValueError:
            raise self._foreign(200, headers) from None

    def _error(self, status: int, headers: Any, data: bytes) -> FrazilError:
        try:
            problem = json.loads(data)
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "code" not in problem:
            return self._foreign(status, headers)
        return problem_error(problem, status)

    def _foreign(self, status: int, headers: Any) -> ServerError | Unavailable:
        kind = headers.get("content-type", "no content type")
        # What a proxy says while the server behind it is away.
        error = Unavailable if status in _RETRIED_STATUSES else ServerError
        return error(
            f"{self.address} answered {status} with {kind}, which is not an answer of a Frazil server",
            hint="check FRAZIL_ADDRESS (or the address given to frazil.login), and any proxy in between",
        )

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        import urllib3

        reason: BaseException = error
        while isinstance(reason, urllib3.exceptions.HTTPError) and reason.__cause__ is not None:
            reason = reason.__cause__
        if isinstance(reason, ConnectionRefusedError):
            return ServerUnreachable(
                f"nothing listens at {self.address} (connection refused)",
                hint="start the server (`pc dev` starts one on this machine), or check the address: FRAZIL_ADDRESS, "
                "~/.config/frazil/config.json",
            )
        return ServerUnreachable(
            f"{self.address} could not be reached: {reason}",
            hint="check the address (FRAZIL_ADDRESS), the network, and any proxy in between",
        )


class _Budget:
    """The time in which one request is tried again. Begins with the request, and ends after `within_s`, if given."""

    def __init__(self, within_s: float | None) -> None:
        self._started = time.monotonic()
        self._failed: float | None = None
        self._within_s = float("inf") if within_s is None else within_s

    def left(self) -> float:
        """Never nothing: a try that can't wait says no more than that."""
        return max(_TRY_SECONDS_MIN, self._within_s - (time.monotonic() - self._started))

    def is_spent(self) -> bool:
        """Whether nothing is left of the caller's time."""
        return time.monotonic() - self._started >= self._within_s

    def allows(self, delay_s: float, *, answered: bool) -> bool:
        """Whether a try that failed just now may be repeated after `delay_s`."""
        now = time.monotonic()
        if self._failed is None:
            self._failed = now
        if self.is_spent():
            return False
        since, limit_s = (self._failed, RETRY_SECONDS) if answered else (self._started, FIRST_CONTACT_SECONDS)
        return now - since + delay_s < limit_s


def backoff_seconds(attempt: int) -> float:
    """Pause after the given attempt (from 1): doubling, with jitter so that clients do not come back in step."""
    longest = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (attempt - 1))
    return longest * (0.5 + random.random() / 2)


def _retry_after(headers: Any) -> float:
    try:
        return max(0.0, float(headers.get("retry-after", "0")))
    except ValueError:
        return 0.0


def _open_pool(address: str) -> urllib3.HTTPConnectionPool:
    import urllib3

    proxy = _proxy_of(address)
    options: dict[str, Any] = {
        "maxsize": CONNECTIONS_MAX,
        "block": False,
        "retries": False,
        "socket_options": _socket_options(),
    }
    if proxy is not None:
        try:
            parts = urlsplit(proxy)
            if parts.username is not None:
                login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
                options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
            return urllib3.ProxyManager(proxy, **options).connection_from_url(address)
        except (ValueError, urllib3.exceptions.HTTPError):
            # Not shown: it may carry a password.
            raise NotConfigured(
                "the address of the proxy in the environment (HTTP_PROXY, HTTPS_PROXY) is not one",
                hint="it looks like http://proxy.example.com:3128; NO_PROXY names servers that need none",
            ) from None
    return urllib3.connection_from_url(address, **options)


def _socket_options() -> list[tuple[int, int, int]]:
    """Small requests go out at once, as urllib3 has it by default. A silent connection is given up by the kernel, as
    far as it can: macOS has no limit for what was sent.
    """
    every_s = max(1, round(SILENT_SECONDS_MAX / (PROBES + 2)))
    wanted = {
        "TCP_KEEPIDLE": 2 * every_s,
        "TCP_KEEPALIVE": 2 * every_s,  # macOS' name of the same.
        "TCP_KEEPINTVL": every_s,
        "TCP_KEEPCNT": PROBES,
        "TCP_USER_TIMEOUT": round(SILENT_SECONDS_MAX * 1_000),
    }
    known = [(getattr(socket, name, None), value) for name, value in wanted.items()]
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, option, value) for option, value in known if option is not None),
    ]


def _proxy_of(address: str) -> str | None:
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import urllib.request

    parts = urlsplit(address)
    host = parts.hostname or ""
    if host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    # As other programs take it.
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy or None


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), PIECE_BYTES):
            yield chunk[at : at + PIECE_BYTES]
