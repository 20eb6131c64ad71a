"""`pc dev`: its home survives a restart, a second one is refused, and nothing is left behind."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import frazil as pc
import polars as pl
import pytest
from conftest import ROOT, Installation, start_installation, wait_until

DEADLINE_SECONDS = 20


def processes_of(home: Path) -> list[str]:
    """Command lines of processes that have to do with this home."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if str(home).encode() in text and state != "Z":
            found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def use(monkeypatch: pytest.MonkeyPatch, running: Installation) -> None:
    monkeypatch.setenv("FRAZIL_ADDRESS", running.address)
    monkeypatch.setenv("FRAZIL_TOKEN", running.token)


QUERY = pl.LazyFrame({"a": [1, 2, 3]}).select(pl.sum("a"))
CONTEXT = pc.ComputeContext(cpus=1, memory=1)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_a_restart_keeps_what_was_done_and_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    first = start_installation(home)
    use(monkeypatch, first)
    in_progress = QUERY.remote(CONTEXT).execute()
    assert in_progress.await_result().lazy().collect().item() == 6

    second = subprocess.run(
        ["node", str(ROOT / "dist" / "pc.mjs"), "dev", "--home", str(home)], capture_output=True, text=True, timeout=30
    )
    assert second.returncode != 0
    assert first.address in second.stderr

    assert first.stop() == 0
    wait_until("no process is left", lambda: processes_of(home) == [])

    again = start_installation(home)
    use(monkeypatch, again)
    try:
        assert again.token == first.token
        assert pc.job(in_progress.id).await_result().lazy().collect().item() == 6
        assert QUERY.remote(CONTEXT).collect().item() == 6
    finally:
        again.stop()


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_killing_it_leaves_no_process_and_its_home_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    killed = start_installation(home)
    use(monkeypatch, killed)
    QUERY.remote(CONTEXT).collect()
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait(timeout=DEADLINE_SECONDS)
    wait_until("no process is left", lambda: processes_of(home) == [])
    again = start_installation(home)
    use(monkeypatch, again)
    try:
        assert QUERY.remote(CONTEXT).collect().item() == 6
    finally:
        again.stop()


def test_the_control_plane_comes_back_at_the_same_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    running = start_installation(home)
    use(monkeypatch, running)
    try:
        QUERY.remote(CONTEXT).collect()
        pids = [
            json.loads(line)["pid"]
            for line in (home / "control-plane.log").read_text().splitlines()
            if "listening" in line
        ]
        os.kill(pids[-1], signal.SIGKILL)
        # The client's own retries bridge the gap.
        assert QUERY.remote(CONTEXT).collect().item() == 6
    finally:
        running.stop()


def test_it_listens_where_the_environment_says_and_no_database_is_its_own(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    running = start_installation(tmp_path / "home", FRAZIL_PORT=str(port), DATABASE_URL="")
    running.stop()
    assert running.address == f"http://127.0.0.1:{port}"


def children_of(pid: int) -> list[str]:
    """Command lines of what this process has started itself."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [Path(f"/proc/{child}/cmdline").read_text() for child in pids]
    except OSError:
        return []


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_ctrl_c_while_the_first_start_makes_the_data_is_no_failure(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAZIL_")}
    starting = subprocess.Popen(
        ["node", str(ROOT / "dist" / "pc.mjs"), "dev", "--home", str(home)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    wait_until("initdb runs", lambda: any("initdb" in command for command in children_of(starting.pid)))
    # A terminal sends it to the whole group.
    os.killpg(starting.pid, signal.SIGINT)
    _, said = starting.communicate(timeout=DEADLINE_SECONDS)
    assert (starting.returncode, "error" in said) == (0, False), said
    start_installation(home).stop()
