"""`LazyFrame.remote` and what hangs on it: which request each call makes, and what comes back."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fake_server import FakeServer
from polars.testing import assert_frame_equal

import frazil as pc
from frazil import _scan
from frazil.errors import UnsupportedArgument


def test_remote_takes_polars_own_keywords_and_frazils(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": [1]})
    call: Any = lf.remote  # Polars' annotations know nothing of Frazil's own arguments; those of frazil.remote do.
    remote = call(
        None,
        plan_type="plain",
        n_retries=2,
        engine="streaming",
        scaling_mode="single-node",
        seed=7,
        priority=80,
        timeout=timedelta(minutes=1),
        name="nightly",
        labels=["team=risk", "cheap"],
    )
    remote.labels({"day": "1"}).execute().await_result()
    spec = server.submitted()[0].spec
    assert spec["attemptsMax"] == 3
    assert spec["engine"] == "streaming"
    assert spec["scaling"] == "single"
    assert (spec["seed"], spec["priority"], spec["timeoutMs"], spec["name"]) == (7, 80, 60_000, "nightly")
    assert spec["labels"] == {"team": "risk", "cheap": "", "day": "1"}


def test_what_was_not_asked_for_is_left_to_the_server(server: FakeServer) -> None:
    pl.LazyFrame({"a": [1]}).remote().execute()
    (job,) = server.submitted()
    assert set(job.spec) == {"client", "output"}
    assert job.spec["client"]["polars"] == pl.__version__
    assert job.spec["client"]["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert job.spec["client"]["cwd"] == str(Path.cwd())


@pytest.mark.parametrize(
    "arguments",
    [
        {"plan_type": "svg"},
        {"n_retries": -1},
        {"n_retries": 20},
        {"engine": "spark"},
        {"scaling_mode": "sideways"},
        {"context": "16 cpus"},
        {"on_failure": "shrug"},
    ],
)
def test_wrong_arguments_are_refused_where_they_are_given(arguments: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedArgument):
        pl.LazyFrame({"a": [1]}).remote(**arguments)


def test_a_polars_cloud_context_goes_to_polars_own_method(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    module = types.ModuleType("polars_cloud")
    module.LazyFrameRemote = lambda **given: taken.append(given) or "theirs"  # type: ignore[attr-defined]
    context = type("ClusterContext", (), {"__module__": "polars_cloud.context"})()
    monkeypatch.setattr(sys.modules[pl.LazyFrame.__module__], "pc", module, raising=False)
    lf = pl.LazyFrame({"a": [1]})
    call: Any = lf.remote
    assert call(context, plan_type="plain") == "theirs"
    assert taken[0]["lf"] is lf
    assert taken[0]["context"] is context
    assert taken[0]["plan_type"] == "plain"
    with pytest.raises(UnsupportedArgument, match="seed"):
        call(context, seed=1)


def test_collect_is_one_request_and_no_read(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": [1, 2, 3]})
    assert_frame_equal(lf.remote().collect(), lf.collect())
    assert server.paths() == ["POST /v1/jobs"]
    assert 0 < float(server.requests[0]["query"]["wait"]) <= 60


def test_collect_reads_the_location_when_the_head_is_not_all(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": range(1000)})
    assert_frame_equal(lf.remote().collect(), lf.collect())
    assert server.paths() == ["POST /v1/jobs"]


def test_a_collected_frame_is_the_callers_own(server: FakeServer) -> None:
    result = pl.LazyFrame({"a": [1, 2]}).remote().execute(blocking=True)
    result.collect().insert_column(0, pl.Series("b", [3, 4]))
    assert result.head.columns == ["a"]


def test_write_and_await_are_two_requests_on_one_connection(server: FakeServer, tmp_path: Path) -> None:
    result = pl.LazyFrame({"a": [1]}).remote().write_parquet(tmp_path / "out").await_result()
    assert result.rows == 1
    methods = [path.split("/")[0] for path in server.paths()]
    assert methods in (["POST "], ["POST ", "GET "])  # One, when the job was over already.
    assert len({request["connection"] for request in server.requests}) == 1
    assert "wait" not in server.requests[0]["query"]


def test_execute_gives_a_handle_or_blocking_a_result(server: FakeServer) -> None:
    remote = pl.LazyFrame({"a": [1]}).remote()
    assert isinstance(remote.execute(), pc.InProgressQueryRemote)
    assert isinstance(remote.execute(blocking=True), pc.QueryResult)
    assert server.submitted()[0].spec["output"] == {
        "format": "ipc",
        "destination": None,
        "mode": "error",
        "options": {},
        "storageOptions": {},
    }


def test_show_runs_the_query_for_its_first_rows_only(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": range(50)})
    assert_frame_equal(lf.remote().show(3), lf.head(3).collect())
    assert server.submitted()[0].wire["result"]["rows"] == 3


def test_await_and_scan_gives_a_lazyframe(server: FakeServer) -> None:
    scanned = pl.LazyFrame({"a": [1, 2]}).remote().await_and_scan()
    assert isinstance(scanned, pl.LazyFrame)
    assert scanned.collect().to_dict(as_series=False) == {"a": [1, 2]}


@pytest.mark.parametrize("verb", ["write", "sink"])
@pytest.mark.parametrize(
    ("format", "extension"), [("parquet", "parquet"), ("csv", "csv"), ("ipc", "arrow"), ("ndjson", "ndjson")]
)
def test_every_format_is_written_and_read_back(
    server: FakeServer, tmp_path: Path, verb: str, format: str, extension: str
) -> None:
    lf = pl.LazyFrame({"a": [1, 2], "b": ["x", None]})
    write: Callable[..., pc.InProgressQueryRemote] = getattr(lf.remote(), f"{verb}_{format}")
    result = write(tmp_path / "dst").await_result()
    assert result.locations == [str(tmp_path / "dst" / f"part-0.{extension}")]
    assert result.format == format
    assert_frame_equal(result.lazy().collect(), lf.collect())


def test_a_name_with_the_formats_extension_is_a_file(server: FakeServer, tmp_path: Path) -> None:
    result = pl.LazyFrame({"a": [1]}).remote().write_csv(tmp_path / "report.csv", separator=";").await_result()
    assert (tmp_path / "report.csv").read_text() == "a\n1\n"
    assert server.submitted()[0].spec["output"]["options"] == {"separator": ";"}
    assert result.lazy().collect().to_dict(as_series=False) == {"a": [1]}


def test_relative_destinations_are_this_machines(server: FakeServer, tmp_path: Path) -> None:
    pl.LazyFrame({"a": [1]}).remote().write_parquet("below/out").await_result()
    assert server.submitted()[0].spec["output"]["destination"] == str(tmp_path / "below" / "out")


def test_the_default_mode_refuses_a_destination_with_data(server: FakeServer, tmp_path: Path) -> None:
    remote = pl.LazyFrame({"a": [1]}).remote()
    remote.write_parquet(tmp_path / "dst").await_result()
    with pytest.raises(pc.QueryFailed, match="overwrite") as raised:
        remote.write_parquet(tmp_path / "dst").await_result()
    assert raised.value.code == "destination_not_empty"
    assert remote.write_parquet(tmp_path / "dst", mode="overwrite").await_result().rows == 1


def test_storage_options_travel_and_are_used_again_for_the_scan(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    result = (
        pl.LazyFrame({"a": [1]})
        .remote()
        .write_parquet("s3://b/x", storage_options={"region": "eu", "n": 1})
        .await_result()
    )
    assert server.submitted()[0].spec["output"]["storageOptions"] == {"region": "eu", "n": "1"}

    def scan(files: list[str], **arguments: Any) -> pl.LazyFrame:
        given.update(arguments)
        return pl.LazyFrame()

    monkeypatch.setattr(pl, "scan_parquet", scan)
    result.lazy()
    assert given["storage_options"] == {"region": "eu", "n": "1"}


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_polars_own_storage_options_are_taken_by_the_scan(server: FakeServer, format: str) -> None:
    own = {"max_retries": 2, "file_cache_ttl": 60, "retry_timeout_ms": 1000, "retry_base_multiplier": 1.5}
    write = getattr(pl.LazyFrame({"a": [1]}).remote(), f"write_{format}")
    result = write("s3://b/x", storage_options={"region": "eu", **own}).await_result()
    sent = server.submitted()[0].spec["output"]["storageOptions"]
    assert sent == {"region": "eu", **{name: str(value) for name, value in own.items()}}
    result._wire["locations"] = ["s3://b/x"]  # The fake server has files only.
    assert isinstance(result.lazy(), pl.LazyFrame)


def test_options_are_numbers_only_where_polars_has_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"max_retries": "2", "retry_base_multiplier": "2", "retry_timeout_ms": "soon", "region": "1"}
    numbers = {"max_retries": 2, "retry_base_multiplier": 2.0, "retry_timeout_ms": "soon", "region": "1"}
    for takes_numbers, expected in ((True, numbers), (False, texts)):
        monkeypatch.setattr(_scan, "_takes_numbers", lambda taken=takes_numbers: taken)
        got = _scan._scan_options(texts)
        assert got == expected
        assert [type(value) for value in got.values()] == [type(value) for value in expected.values()]


def test_what_is_not_offered_is_said_by_name() -> None:
    remote = pl.LazyFrame({"a": [1]}).remote()
    with pytest.raises(AttributeError, match="does not offer sink_iceberg"):
        remote.sink_iceberg  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        remote.nonsense  # noqa: B018
    with pytest.raises(pc.NotAvailable, match="min_workers"):
        remote.distributed(min_workers=2)


def test_partition_by_takes_names_and_expressions(server: FakeServer, days: pl.DataFrame) -> None:
    month = pl.col("day").str.slice(0, 7).alias("month")
    handle = pc.remote(days.lazy(), on_failure="cancel").partition_by("group", month, max_keys=10).execute()
    results = handle.await_result()
    spec = server.submitted()[0].spec
    assert [key["name"] for key in spec["partitionBy"]["keys"]] == ["group", "month"]
    assert [bool(key.get("expr")) for key in spec["partitionBy"]["keys"]] == [False, True]
    assert spec["partitionBy"]["maxKeys"] == 10
    assert spec["onFailure"] == "cancel"
    expected = days.filter(pl.col("group") == "a", month == "2024-01")
    assert_frame_equal(results["a", "2024-01"].collect(), expected)
    assert_frame_equal(results[{"month": "2024-01", "group": "a"}].collect(), expected)


def test_partition_by_other_ways_to_say_the_same() -> None:
    remote = pl.LazyFrame({"a": [1], "b": [2]}).remote()

    def names(partitioned: pc.PartitionedRemote) -> list[Any]:
        assert partitioned._options.partition_by is not None
        return [(key["name"], "expr" in key) for key in partitioned._options.partition_by["keys"]]

    assert names(remote.partition_by(["a", "b"])) == [("a", False), ("b", False)]
    assert names(remote.partition_by(pl.col("a"), pl.col("b") + 1)) == [("a", False), ("b", True)]
    assert names(remote.partition_by(c=pl.col("a"))) == [("c", True)]
    with pytest.raises(UnsupportedArgument, match="at least one"):
        remote.partition_by()
    with pytest.raises(UnsupportedArgument, match="same name"):
        remote.partition_by("a", pl.col("a") + 1)
    with pytest.raises(UnsupportedArgument, match="names and expressions"):
        remote.partition_by(1)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedArgument, match="alias"):
        remote.partition_by(pl.all())


def test_too_many_keys_are_refused_as_the_jobs_own_error(server: FakeServer, days: pl.DataFrame) -> None:
    handle = days.lazy().remote().partition_by("value", max_keys=3).execute()
    with pytest.raises(pc.QueryFailed, match="12 keys, and at most 3"):
        handle.await_result()


def test_async_forms_give_what_the_others_give(server: FakeServer) -> None:
    lf = pl.LazyFrame({"a": [1, 2]})

    async def main() -> None:
        assert_frame_equal(await lf.remote().collect_async(), lf.collect())
        result = await lf.remote().execute()
        assert result.rows == 2
        handle = await pc.spawn_async(lf)
        assert (await handle.await_result_async()).rows == 2
        many = await pc.spawn_many_async([lf, lf])
        assert len(await many) == 2

    asyncio.run(main())


def test_many_async_waits_go_on_together(server: FakeServer) -> None:
    server.jobs.gate.clear()

    async def main() -> list[pc.QueryResult]:
        handles = [await pc.spawn_async(pl.LazyFrame({"a": [number]})) for number in range(100)]
        waits = [asyncio.ensure_future(handle.await_result_async()) for handle in handles]
        await asyncio.sleep(0)
        server.jobs.gate.set()
        return await asyncio.wait_for(asyncio.gather(*waits), 30)

    results = asyncio.run(main())
    assert [result.head.item() for result in results] == list(range(100))


def test_spawn_and_its_blocking_form(server: FakeServer, tmp_path: Path) -> None:
    lf = pl.LazyFrame({"a": [1]})
    assert pc.spawn(lf, dst=tmp_path / "one.csv").await_result().format == "csv"
    assert pc.spawn_blocking(lf, dst=tmp_path / "two").format == "parquet"
    assert pc.spawn_blocking(lf).format == "ipc"
    assert pc.spawn_blocking(lf, dst=pc.NdjsonDst(tmp_path / "three")).format == "ndjson"
    with pytest.raises(UnsupportedArgument, match="CsvDst"):
        pc.spawn(lf, dst=pc.CsvDst("s3://b/x"), mode="append")
