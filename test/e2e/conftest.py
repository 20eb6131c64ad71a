"""One real installation (`pc dev` from the bundles) for all tests of a run, and small TPC-H data."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VENV_BIN = Path(sys.executable).parent
START_SECONDS_MAX = 90
WAIT_SECONDS_MAX = 90
POLL_SECONDS = 0.02


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Looks again and again until it holds; fails, saying what was waited for, after the deadline."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS_MAX} s in vain until {what}"
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """A process that has ended stays in the table until its parent has looked: that is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@dataclass
class Installation:
    """A running `pc dev`."""

    home: Path
    address: str
    token: str
    process: subprocess.Popen[str]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "FRAZIL_ADDRESS": self.address, "FRAZIL_TOKEN": self.token}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


def start_installation(home: Path, **env: str) -> Installation:
    command = ["node", str(ROOT / "dist" / "pc.mjs"), "dev", "--home", str(home), "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAZIL_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**environment, **env})
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"pc dev ended with {process.wait(timeout=START_SECONDS_MAX)}"
    started = json.loads(line)
    return Installation(home, started["address"], started["token"], process)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    running = start_installation(tmp_path_factory.mktemp("frazil"))
    os.environ["FRAZIL_ADDRESS"] = running.address
    os.environ["FRAZIL_TOKEN"] = running.token
    os.environ["FRAZIL_PROGRESS"] = "0"
    yield running
    running.stop()


@pytest.fixture(scope="session")
def lineitem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TPC-H lineitem at scale factor 0.01: 60,175 rows."""
    folder = tmp_path_factory.mktemp("tpch")
    command = [
        str(VENV_BIN / "tpchgen-cli"),
        "parquet",
        "-s",
        "0.01",
        "--tables",
        "lineitem",
        "--output-dir",
        str(folder),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "lineitem.parquet"
