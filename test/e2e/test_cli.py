"""`pc` against a real server: what a script sees (stdout, stderr, exit codes) and what lies in the destination."""

import json
import os
import subprocess
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, VENV_BIN, Installation
from polars.testing import assert_frame_equal


@pytest.fixture
def pc(installation: Installation, tmp_path: Path):
    environment = {**installation.environment(), "FRAZIL_PYTHON": str(VENV_BIN / "python")}

    def run(*arguments: str, cwd: Path = tmp_path, token: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["node", str(ROOT / "dist" / "pc.mjs"), *arguments]
        env = environment if token is None else {**environment, "FRAZIL_TOKEN": token}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=90)

    return run


def test_sql_over_a_relative_path(pc, tmp_path: Path) -> None:
    frame = pl.DataFrame({"region": ["n", "s", "n"], "value": [1, 2, 3]})
    frame.write_parquet(tmp_path / "sales.parquet")
    sql = "SELECT region, SUM(value) AS total FROM read_parquet('sales.parquet') GROUP BY region"
    done = pc("submit", sql, "--wait", "--dst", "out/", "--json")
    assert done.returncode == 0, done.stderr
    expected = frame.group_by("region").agg(total=pl.sum("value"))
    assert_frame_equal(pl.read_parquet(tmp_path / "out"), expected, check_row_order=False)
    assert json.loads(done.stdout)["status"] == "succeeded"


def test_a_saved_plan_and_a_frame_of_a_python_file(pc, tmp_path: Path) -> None:
    (tmp_path / "etl.py").write_text(
        "import polars as pl\nprint('loading')\n"
        "daily = pl.LazyFrame({'a': [1, 2]}).select(pl.sum('a'))\nother = pl.LazyFrame({'b': [1]})\n"
    )
    pl.LazyFrame({"a": [20, 22]}).select(pl.sum("a")).serialize(tmp_path / "plan.bin")
    assert pc("submit", "etl.py:daily", "--wait", "--dst", "daily.csv").returncode == 0
    assert pc("submit", "plan.bin", "--wait", "--dst", "plan.csv").returncode == 0
    assert (tmp_path / "daily.csv").read_text() == "a\n3\n"
    assert (tmp_path / "plan.csv").read_text() == "a\n42\n"
    unclear = pc("submit", "etl.py")
    assert unclear.returncode == 2
    assert "daily" in unclear.stderr
    assert "other" in unclear.stderr


def test_spawn_many_over_a_grid_of_parameters(pc, tmp_path: Path) -> None:
    frame = pl.DataFrame({"day": ["2024-01-01", "2024-01-02", "2024-01-02"], "region": ["eu", "us", "o'us"]})
    frame.write_parquet(tmp_path / "x.parquet")
    sql = "SELECT COUNT(*) AS n FROM read_parquet('x.parquet') WHERE day = '{day}' AND region = '{region}'"
    grid = ("--param", "day=2024-01-01..2024-01-02", "--param", "region=eu,us")
    done = pc("spawn-many", "--sql", sql, *grid, "--dst", "out", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    counts = [pl.read_parquet(tmp_path / f"out/frame={n}/part-0.parquet").item() for n in range(4)]
    assert counts == [1, 0, 0, 1]


def test_exit_codes_tell_a_script_what_happened(pc) -> None:
    assert pc("submit", "SELECT nope FROM read_parquet('/no/such/file.parquet')", "--wait").returncode == 1
    assert pc("submit").returncode == 2
    assert pc("jobs", "--address", "http://127.0.0.1:9").returncode == 3
    assert pc("jobs", token="frz_wrong").returncode in (3, 4)
    assert pc("job", "job_01hzzzzzzzzzzzzzzzzzzzzzzz").returncode == 4


def test_a_job_can_be_listed_looked_at_cancelled_and_retried(pc, tmp_path: Path) -> None:
    done = pc("submit", "SELECT 1 AS one", "--name", "listed", "--json", "--wait")
    assert done.returncode == 0, done.stderr
    job_id = json.loads(done.stdout)["id"]
    assert job_id in pc("jobs", "--json").stdout
    assert "listed" in pc("job", job_id).stdout
    assert pc("retry", job_id).returncode == 4

    (tmp_path / "slow.py").write_text(
        "import time\nimport polars as pl\n"
        "slow = pl.col('a').map_elements(lambda v: time.sleep(60), return_dtype=pl.Int64)\n"
        "lf = pl.LazyFrame({'a': [1]}).select(slow)\n"
    )
    slow_id = pc("submit", "slow.py", "--quiet").stdout.strip()
    assert pc("cancel", slow_id).returncode == 0
    assert pc("wait", slow_id).returncode == 5
    assert json.loads(pc("job", slow_id, "--json").stdout)["status"] == "cancelled"


def test_help_and_version_start_fast_enough_to_be_used_in_a_prompt(pc) -> None:
    for arguments in (["--version"], ["--help"], ["submit", "--help"], ["completion", "bash"]):
        done = pc(*arguments)
        assert done.returncode == 0
        assert done.stdout.strip()


def test_doctor_finds_nothing_wrong_here(pc) -> None:
    done = pc("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.environ["FRAZIL_ADDRESS"] in done.stdout
