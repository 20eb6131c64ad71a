"""One real installation for the chaos tests: `pc dev` with its Postgres, nodes and engines, a Redis, and where asked a
second control plane behind a small proxy. What is killed comes back as it does for users: `pc dev` and the control
plane start their own again; this module starts Redis and the second control plane again.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from processes import Process, find_processes, read_state, wait_until
from proxy import Proxy
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

REPOSITORY = Path(__file__).parents[2]
DIST = REPOSITORY / "dist"
VENV_BIN = Path(sys.executable).parent
LEASE_SECONDS = 3.0
START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 40.0
WATCH_SECONDS = 0.05
PR_SET_PDEATHSIG = 1
SECRET_STORAGE_OPTION = "chaos-storage-secret-7f3a"


@dataclass(frozen=True)
class Setup:
    """How an installation is to be made. Environments are those of the programs named."""

    queue: str = "redis"
    planes: int = 1
    dev_environment: dict[str, str] = field(default_factory=dict)
    second_environment: dict[str, str] = field(default_factory=dict)
    # Where `pc dev` is started.
    folder: Path | None = None


class Installation:
    """A running one. `root` holds everything that it writes, but for what Postgres keeps where root can't enter."""

    def __init__(self, setup: Setup, cache: Path) -> None:
        self.setup = setup
        # Postgres runs as another user when this is root: that user must be able to enter.
        self.root = Path(tempfile.mkdtemp(prefix="frazil-chaos-"))
        self.root.chmod(0o711)
        self.homes = [self.root / f"home{number}" for number in range(setup.planes)]
        for home in self.homes:
            home.mkdir(mode=0o711)
            cache.mkdir(parents=True, exist_ok=True)
            (home / "cache").symlink_to(cache)
        self.ports = [free_port() for _ in range(setup.planes)]
        self.redis_port = free_port() if setup.queue == "redis" else None
        self.proxy = Proxy(self.ports) if setup.planes > 1 else None
        self._kept: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._asking = threading.Lock()
        self._kept_connection: psycopg.Connection[dict[str, Any]] | None = None
        self.restarts = 0
        if self.redis_port is not None:
            self._keep("redis")
        self.dev = self._start_dev()
        started = json.loads((self.homes[0] / "dev.json").read_text())
        self.address: str = started["address"]
        self.token: str = started["token"]
        if setup.planes > 1:
            self._keep("second")
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _start_dev(self) -> subprocess.Popen[str]:
        command = ["node", str(DIST / "pc.mjs"), "dev", "--home", str(self.homes[0]), "--port", str(self.ports[0])]
        log = (self.root / "dev.log").open("ab")
        dev = subprocess.Popen(
            [*command, "--json"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=self.setup.folder,
            env={**self._environment(), **self.setup.dev_environment},
            preexec_fn=end_with_parent,
        )
        assert dev.stdout is not None
        line = dev.stdout.readline()
        assert line, f"pc dev did not start: {(self.root / 'dev.log').read_text()[-2000:]}"
        return dev

    def _environment(self) -> dict[str, str]:
        names = ("FRAZIL_", "LD_PRELOAD", "FAKETIME", "DATABASE_URL", "REDIS_URL", "PYTEST_")
        passed = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        chosen = {
            "FRAZIL_LEASE_TTL_MS": str(round(LEASE_SECONDS * 1000)),
            "FRAZIL_LOG_LEVEL": "debug",
        }
        if self.redis_port is not None:
            chosen["REDIS_URL"] = f"redis://127.0.0.1:{self.redis_port}"
        if self.proxy is not None:
            chosen["FRAZIL_PUBLIC_ADDRESS"] = self.proxy.address
        return passed | chosen

    def _keep(self, name: str) -> None:
        """Starts a program that this module starts again whenever it ends."""
        command, environment = self._redis() if name == "redis" else self._second_plane()
        log = (self.root / f"{name}.log").open("ab")
        self._kept[name] = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.root, env=environment, preexec_fn=end_with_parent
        )

    def _redis(self) -> tuple[list[str], dict[str, str]]:
        address = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(self.root)]
        # Nothing is kept on disk: what it held is lost with it.
        return [find_redis(), *address, "--save", "", "--appendonly", "no"], {
            **os.environ,
            "CHAOS_ROOT": str(self.root),
        }

    def _second_plane(self) -> tuple[list[str], dict[str, str]]:
        environment = {
            **self._environment(),
            "DATABASE_URL": self.database_url,
            "FRAZIL_HOME": str(self.homes[1]),
            "FRAZIL_KEY": (self.homes[0] / "key").read_text().strip(),
            "FRAZIL_PORT": str(self.ports[1]),
            **self.setup.second_environment,
        }
        return ["node", str(DIST / "control-plane.mjs")], environment

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            for name, process in list(self._kept.items()):
                if process.poll() is not None and not self._stopping.is_set():
                    self.restarts += 1
                    self._keep(name)

    @property
    def database_url(self) -> str:
        given = self.setup.dev_environment.get("DATABASE_URL")
        if given is not None:
            return given
        state = json.loads((self.homes[0] / "postgres" / "postgres.json").read_text())
        return f"postgres://frazil:{state['password']}@127.0.0.1:{state['port']}/frazil"

    def connect(self, seconds: float = 60.0) -> psycopg.Connection[dict[str, Any]]:
        """A connection of the harness' own; waits while Postgres is away."""

        def attempt() -> psycopg.Connection[dict[str, Any]] | None:
            try:
                return psycopg.Connection[dict[str, Any]].connect(
                    self.database_url,
                    autocommit=True,
                    row_factory=dict_row,
                    connect_timeout=5,
                )
            except psycopg.OperationalError:
                return None

        return wait_until("Postgres takes connections", attempt, seconds)

    def rows(self, text: str, *values: Any) -> list[dict[str, Any]]:
        """One query, asked again while Postgres is away."""

        def attempt() -> list[list[dict[str, Any]]] | None:
            with self._asking:
                try:
                    if self._kept_connection is None or self._kept_connection.closed:
                        self._kept_connection = self.connect()
                    return [self._kept_connection.execute(text.encode(), values).fetchall()]
                except psycopg.OperationalError:
                    self._kept_connection = None
                    return None

        return wait_until("Postgres answers", attempt)[0]

    def hang_up(self) -> None:
        """Leaves Postgres, which may be waiting for that, until the next query."""
        with self._asking:
            if self._kept_connection is not None:
                self._kept_connection.close()

    def processes(self, kind: str | None = None) -> list[Process]:
        found = find_processes(self.root)
        redis = self._kept.get("redis")
        # It writes its own title over its command and environment.
        if redis is not None and redis.poll() is None and (state := read_state(redis.pid)) is not None:
            found.append(Process(redis.pid, state[1], state[2], "redis", "redis-server"))
        return [one for one in found if kind is None or one.kind == kind]

    def signal_all(self, kind: str, number: signal.Signals) -> list[Process]:
        """Sends it to every process of the kind. Gives those that got it."""
        return [one for one in self.processes(kind) if one.send(number)]

    @property
    def queue_url(self) -> str:
        return self.database_url if self.redis_port is None else f"redis://127.0.0.1:{self.redis_port}"

    def redis_cli(self, command: str) -> None:
        """One command to Redis. It may be away."""
        address = ("127.0.0.1", self.redis_port or 0)
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            connection.recv(1_000)

    def secrets(self) -> list[str]:
        """What must stand in no log and no row: keys, tokens, passwords and options of this installation."""
        kept = [(self.homes[0] / name).read_text().strip() for name in ("key", "token")]
        tokens = []
        for home in self.homes:
            for path in home.glob("nodes/*/identity.json"):
                tokens.append(json.loads(path.read_text())["nodeToken"])
        password = conninfo_to_dict(self.database_url)["password"]
        return [*kept, *tokens, str(password), SECRET_STORAGE_OPTION]

    def logs(self) -> list[Path]:
        """Every log file of every program."""
        return sorted(self.root.rglob("*.log")) + sorted(self.root.rglob("*.log.1"))

    def stop(self) -> list[Process]:
        """Ends everything in order. Gives what is left behind then, having ended it too, and removes all files."""
        self._stopping.set()
        self._watcher.join()
        self.hang_up()
        for process in self.processes():
            process.send(signal.SIGCONT)
        for name in ("second",):
            if name in self._kept:
                self._kept[name].send_signal(signal.SIGTERM)
                self._kept[name].wait(STOP_SECONDS_MAX)
        self.dev.send_signal(signal.SIGINT)
        code = self.dev.wait(STOP_SECONDS_MAX)
        if "redis" in self._kept:
            self._kept["redis"].kill()
            self._kept["redis"].wait()
        if self.proxy is not None:
            self.proxy.close()
        deadline = time.monotonic() + STOP_SECONDS_MAX
        left = self.processes()
        while left and time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS)
            left = self.processes()
        for process in left:
            process.send(signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)
        assert code == 0, f"pc dev ended with {code}"
        return left


def end_with_parent() -> None:
    """Called in the child: it is told to end when the test process is gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def find_redis() -> str:
    packaged = VENV_BIN / "redis-server"
    return str(packaged) if packaged.exists() else "redis-server"
