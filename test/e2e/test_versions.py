"""Every Polars release of the matrix: client and engine run the same one, in environments made on first use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, VENV_BIN, Installation

SCRIPT = """
import json, sys
import polars as pl, frazil as pc

def double(value):
    return value * 2

lf = pl.LazyFrame({"day": ["a", "b", "a"], "v": [1, 2, 3]})
ctx = pc.ComputeContext(cpus=1, memory=2)
frames = [lf.select(pl.sum("v") * n) for n in range(3)]
udf = lf.select(pl.col("v").map_elements(double, return_dtype=pl.Int64).sum())
out = {
    "polars": pl.__version__,
    "plain": lf.group_by("day").agg(pl.sum("v")).sort("day").remote(ctx).collect().rows(),
    "expected": lf.group_by("day").agg(pl.sum("v")).sort("day").collect().rows(),
    "udf": udf.remote(ctx).collect().item(),
    "keys": sorted(
        (one.key["day"], one.lazy().collect().item())
        for one in lf.select(pl.sum("v")).remote(ctx).partition_by("day").execute().await_result()
    ),
    "many": [one.lazy().collect().item() for one in pc.spawn_many(frames, context=ctx).await_result()],
}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def make_client(tmp_path_factory: pytest.TempPathFactory):
    def make(polars: str) -> Path:
        folder = tmp_path_factory.mktemp("client") / polars
        subprocess.run([VENV_BIN / "uv", "venv", "-q", "--python", sys.executable, folder], check=True)
        python = folder / "bin" / "python"
        packages = [f"polars=={polars}", "urllib3>=2", "cloudpickle"]
        subprocess.run([VENV_BIN / "uv", "pip", "install", "-q", "--python", python, *packages], check=True)
        return python

    return make


@pytest.mark.parametrize("polars", ["1.35.2", "1.44.2", "2.0.0", "2.1.0"])
def test_a_client_of_this_release(installation: Installation, make_client, polars: str) -> None:
    environment = {**installation.environment(), "PYTHONPATH": str(ROOT / "client" / "src")}
    done = subprocess.run(
        [make_client(polars), "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["polars"] == polars
    assert out["plain"] == out["expected"] == [["a", 4], ["b", 2]]
    assert out["udf"] == 12
    assert out["keys"] == [["a", 4], ["b", 2]]
    assert out["many"] == [0, 6, 12]
