"""One query: what comes back is what local Polars gives."""

import warnings
from datetime import date
from pathlib import Path

import frazil as pc
import polars as pl
import pytest
from conftest import Installation
from polars.testing import assert_frame_equal

pytestmark = pytest.mark.usefixtures("installation")

CONTEXT = pc.ComputeContext(cpus=2, memory=4)


def announcement(lineitem: Path) -> pl.LazyFrame:
    return (
        pl.scan_parquet(lineitem)
        .filter(pl.col("l_shipdate") <= date(1998, 9, 2))
        .group_by("l_returnflag", "l_linestatus")
        .agg(avg_price=pl.mean("l_extendedprice"), avg_disc=pl.mean("l_discount"), count_order=pl.len())
    )


def test_the_announcement_as_written(lineitem: Path, tmp_path: Path) -> None:
    query = announcement(lineitem)
    in_progress = query.remote(pc.ComputeContext(cpus=16, memory=64)).write_parquet(f"{tmp_path}/my-dst/")
    result = in_progress.await_result()
    new_lf: pl.LazyFrame = result.lazy()
    expected = query.collect()
    assert_frame_equal(new_lf.collect(), expected, check_row_order=False)
    assert_frame_equal(pl.read_parquet(f"{tmp_path}/my-dst/"), expected, check_row_order=False)
    assert "count_order" in str(result)
    assert result.rows == expected.height
    assert list((tmp_path / "my-dst").iterdir()) == [tmp_path / "my-dst" / "part-0.parquet"]


@pytest.mark.parametrize(
    ("form", "read"),
    [("parquet", pl.read_parquet), ("csv", pl.read_csv), ("ipc", pl.read_ipc), ("ndjson", pl.read_ndjson)],
)
def test_every_format_to_a_file(lineitem: Path, tmp_path: Path, form: str, read) -> None:
    query = (
        pl.scan_parquet(lineitem).select("l_orderkey", pl.col("l_quantity").cast(pl.Float64), "l_comment").head(1000)
    )
    path = tmp_path / f"out.{form}"
    remote = query.remote(CONTEXT)
    result = getattr(remote, f"sink_{form}")(str(path)).await_result()
    assert_frame_equal(read(path), query.collect())
    assert_frame_equal(result.lazy().collect(), query.collect())


def test_bare_forms_use_the_defaults_of_the_workspace(lineitem: Path) -> None:
    query = announcement(lineitem)
    result = query.remote().write_parquet().await_result()
    assert_frame_equal(result.lazy().collect(), query.collect(), check_row_order=False)
    assert_frame_equal(query.remote().collect(), query.collect(), check_row_order=False)


def test_modes_say_what_happens_to_data_that_is_there(tmp_path: Path) -> None:
    one, two = pl.LazyFrame({"a": [1]}), pl.LazyFrame({"a": [2]})
    destination = str(tmp_path / "dst")
    one.remote(CONTEXT).write_parquet(destination).await_result()
    with pytest.raises(pc.FrazilError, match="overwrite"):
        two.remote(CONTEXT).write_parquet(destination).await_result()
    assert pl.read_parquet(destination)["a"].to_list() == [1]
    two.remote(CONTEXT).write_parquet(destination, mode="append").await_result()
    assert sorted(pl.read_parquet(destination)["a"].to_list()) == [1, 2]
    two.remote(CONTEXT).write_parquet(destination, mode="overwrite").await_result()
    assert pl.read_parquet(destination)["a"].to_list() == [2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst"]


def test_a_polars_error_comes_back_as_itself() -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="nope"):
        pl.LazyFrame({"a": [1]}).select("nope").remote(CONTEXT).execute().await_result()


def test_an_error_of_user_code_keeps_its_type_message_and_lines() -> None:
    def explode(value: int) -> int:
        raise KeyError(f"no rule for {value}")

    query = pl.LazyFrame({"a": [7]}).select(pl.col("a").map_elements(explode, return_dtype=pl.Int64))
    with pytest.raises(KeyError, match="no rule for 7") as caught:
        query.remote(CONTEXT).execute().await_result()
    assert isinstance(caught.value, pc.QueryFailed)
    notes = "\n".join(getattr(caught.value, "__notes__", [])) + str(caught.value)
    assert "explode" in notes


def test_prints_and_warnings_of_user_code_arrive(capfd: pytest.CaptureFixture[str]) -> None:
    def chatty(value: int) -> int:
        print(f"saw {value}")
        warnings.warn("this is odd", RuntimeWarning, stacklevel=1)
        return value

    query = pl.LazyFrame({"a": [5]}).select(pl.col("a").map_elements(chatty, return_dtype=pl.Int64))
    in_progress = query.remote(CONTEXT).execute()
    with pytest.warns(RuntimeWarning, match="this is odd"):
        in_progress.await_result()
    assert "saw 5" in capfd.readouterr().out
    assert "saw 5" in [line.text for line in in_progress.logs()]


def test_environment_packages_and_seed_reach_the_engine() -> None:
    def probe(_: int) -> str:
        import os
        import random

        import humanize  # pyright: ignore[reportMissingImports]

        return f"{os.environ['GREETING']} {random.random()} {humanize.intcomma(1234567)}"

    context = pc.ComputeContext(cpus=2, memory=4, env={"GREETING": "hello"}, packages=["humanize==4.12.3"])
    query = pl.LazyFrame({"a": [1]}).select(pl.col("a").map_elements(probe, return_dtype=pl.String))
    import random

    random.seed(42)
    expected = f"hello {random.random()} 1,234,567"
    assert pc.remote(query, context, seed=42).collect().item() == expected


def test_relative_paths_mean_the_callers_directory(lineitem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lineitem.parent)
    query = pl.scan_parquet("lineitem.parquet").select(pl.len())
    assert query.remote(CONTEXT).collect().item() == query.collect().item()


def test_the_same_handle_in_another_process(installation: Installation, lineitem: Path) -> None:
    import subprocess
    import sys

    in_progress = announcement(lineitem).remote(CONTEXT).execute()
    script = f"import frazil as pc; print(pc.job({in_progress.id!r}).await_result().rows)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=installation.environment(), capture_output=True, text=True
    )
    assert done.stdout.strip() == str(announcement(lineitem).collect().height), done.stderr


def test_what_is_not_offered_is_refused_by_name() -> None:
    lf = pl.LazyFrame({"a": [1]})
    with pytest.raises(pc.NotAvailable, match="istributed"):
        lf.remote(CONTEXT).distributed().write_parquet().await_result()
    with pytest.raises(pc.NotAvailable, match="GPU"):
        lf.remote(pc.ComputeContext(cpus=1, memory=1, gpus=1)).execute().await_result()
    with pytest.raises(pc.NotAvailable, match="aws"):
        lf.remote(pc.ComputeContext(cpus=1, memory=1, cloud="aws")).execute().await_result()


def test_a_secret_is_nowhere_in_the_logs(installation: Installation) -> None:
    context = pc.ComputeContext(cpus=2, memory=4, env={"PASSWORD": "marker-1f7a"})
    pl.LazyFrame({"a": [1]}).remote(context).collect()
    logs = [installation.home / "control-plane.log", *installation.home.glob("nodes/*/agent.log")]
    assert len(logs) > 1
    assert all("marker-1f7a" not in path.read_text() for path in logs)
