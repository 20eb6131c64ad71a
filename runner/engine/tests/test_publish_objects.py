"""Results and destinations in an object store, against a server that speaks S3."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import Engine, Message, partition_by, run_message, serialize, task
from polars.testing import assert_frame_equal
from test_sweeping import sweep_message

moto_server = pytest.importorskip("moto.server")

NEW = pl.DataFrame({"a": [1, 2, 3]})
BUCKET = "bucket"
# Options that only Polars knows, as they travel.
NUMBERS = {
    "file_cache_ttl": "3",
    "max_retries": "2",
    "retry_timeout_ms": "20000",
    "retry_init_backoff_ms": "10",
    "retry_max_backoff_ms": "100",
    "retry_base_multiplier": "1.5",
    "rate_read_init": "100",
    "rate_write_ceiling": "1000",
}


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    """Storage options for a store of this module's own."""
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"))
    yield {
        "aws_endpoint_url": f"http://127.0.0.1:{port}",
        "aws_allow_http": "true",
        "aws_access_key_id": "test-access-key",
        "aws_secret_access_key": "test-secret-key",
        "aws_region": "us-east-1",
    }
    server.stop()


@pytest.fixture(scope="module")
def engine(options: dict[str, str]) -> Iterator[Engine]:
    """An engine whose node has credentials of its own."""
    with Engine(env={name.upper(): value for name, value in options.items()}) as started:
        yield started


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix that no other test writes to."""
    return f"{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def bucket(options: dict[str, str], prefix: str) -> str:
    """A bucket that no other test writes to."""
    name = f"bucket-{prefix}"
    urllib.request.urlopen(urllib.request.Request(f"{options['aws_endpoint_url']}/{name}", method="PUT"))
    return name


def store_of(options: dict[str, str], bucket: str = BUCKET) -> Any:
    from frazil_engine import objects

    return objects.open_store(f"s3://{bucket}", options)


def keys(options: dict[str, str], prefix: str = "", bucket: str = BUCKET) -> list[str]:
    import obstore

    pages = obstore.list(store_of(options, bucket), prefix=prefix or None)
    return sorted(found["path"] for page in pages for found in page)


def submit(
    engine: Engine,
    results: Path,
    options: dict[str, str],
    destination: str,
    mode: str,
    verb: str | None = "publish",
    bucket: str = BUCKET,
    **fields: Any,
) -> Any:
    message = run_message(
        results,
        destination=f"s3://{bucket}/{destination}",
        mode=mode,
        storageOptions=options,
        format=fields.pop("format", "parquet"),
        **fields,
    )
    return engine.converse(message, serialize(NEW.lazy()), verb)


def put(options: dict[str, str], key: str, data: bytes = b"old", bucket: str = BUCKET) -> None:
    import obstore

    obstore.put(store_of(options, bucket), key, data)


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_a_result_is_written_with_the_options_of_the_destination(
    engine: Engine, results: Path, options: dict[str, str], prefix: str, format: str
) -> None:
    extension = {"ipc": "arrow"}.get(format, format)
    talk = submit(engine, results, options, f"{prefix}/{format}/", "error", format=format)
    result = talk.one("done")["result"]
    assert result["locations"] == [f"s3://{BUCKET}/{prefix}/{format}/part-0.{extension}"]
    assert result["rows"] == 3
    assert_frame_equal(pl.read_ipc_stream(talk.head), NEW)
    assert keys(options, f"{prefix}/") == [f"{prefix}/{format}/part-0.{extension}"]
    assert keys(options, ".frazil-staging/") == []
    read = {"parquet": pl.scan_parquet, "csv": pl.scan_csv, "ipc": pl.scan_ipc, "ndjson": pl.scan_ndjson}[format]
    assert_frame_equal(read(result["locations"][0], storage_options=options).collect(), NEW)


@pytest.mark.parametrize("format", ["ipc", "csv"])
def test_a_results_location_in_a_store_uses_the_nodes_own_credentials(
    engine: Engine, options: dict[str, str], prefix: str, format: str
) -> None:
    talk = engine.converse(
        run_message(f"s3://{BUCKET}/{prefix}", format=format, engine="streaming"), serialize(NEW.lazy())
    )
    location = talk.one("done")["result"]["locations"][0]
    assert location == f"s3://{BUCKET}/{prefix}/job_1/task_1/1.{'arrow' if format == 'ipc' else 'csv'}"
    scan = pl.scan_ipc if format == "ipc" else pl.scan_csv
    assert_frame_equal(scan(location, storage_options=options).collect(), NEW)


@pytest.mark.parametrize("destination", ["out/", "out.parquet"])
def test_data_at_the_destination_is_kept_in_mode_error(
    engine: Engine, results: Path, options: dict[str, str], prefix: str, destination: str
) -> None:
    put(options, f"{prefix}/out/other.parquet")
    put(options, f"{prefix}/out.parquet")
    before = keys(options)
    error = submit(engine, results, options, f"{prefix}/{destination}", "error").one("failed")["error"]
    assert error["code"] == "destination_not_empty"
    assert keys(options) == before


@pytest.mark.parametrize(
    ("destination", "appearing"),
    [("out/", "out/part-0.parquet"), ("out/", "out/x.parquet"), ("out.parquet", "out.parquet")],
)
def test_data_that_appears_meanwhile_is_kept_in_mode_error(
    engine: Engine, results: Path, options: dict[str, str], prefix: str, destination: str, appearing: str
) -> None:
    import obstore

    message = run_message(
        results, destination=f"s3://{BUCKET}/{prefix}/{destination}", format="parquet", storageOptions=options
    )
    engine.send(message, serialize(NEW.lazy()))
    while (answer := engine.receive()[0])["type"] != "staged":
        assert answer["type"] == "opened"
    put(options, f"{prefix}/{appearing}")
    engine.send({"type": "publish", "taskId": "task_1"})
    assert engine.receive()[0]["error"]["code"] == "destination_not_empty"
    assert engine.receive()[0]["type"] == "idle"
    assert keys(options, f"{prefix}/") == [f"{prefix}/{appearing}"]
    assert bytes(obstore.get(store_of(options), f"{prefix}/{appearing}").bytes()) == b"old"
    assert keys(options, ".frazil-staging/") == []


def test_overwrite_replaces_all_of_a_prefix(
    engine: Engine, results: Path, options: dict[str, str], prefix: str
) -> None:
    for key in ("out/part-0.parquet", "out/part-9.parquet", "out/day=1/part-0.parquet", "outer/part-0.parquet"):
        put(options, f"{prefix}/{key}")
    submit(engine, results, options, f"{prefix}/out", "overwrite").one("done")
    assert keys(options, f"{prefix}/") == [f"{prefix}/out/part-0.parquet", f"{prefix}/outer/part-0.parquet"]
    assert_frame_equal(pl.read_parquet(f"s3://{BUCKET}/{prefix}/out/", storage_options=options), NEW)


def test_overwrite_does_not_delete_what_no_query_wrote(
    engine: Engine, results: Path, options: dict[str, str], prefix: str
) -> None:
    put(options, f"{prefix}/out/notes.txt")
    error = submit(engine, results, options, f"{prefix}/out", "overwrite").one("failed")["error"]
    assert error["code"] == "storage_refused" and "notes.txt" in error["message"]
    assert submit(engine, results, options, "", "overwrite").one("failed")["error"]["code"] == "storage_refused"
    assert keys(options, f"{prefix}/") == [f"{prefix}/out/notes.txt"]


@pytest.mark.parametrize("format", ["parquet", "csv"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_whole_bucket_is_written_to_and_never_replaced(
    engine: Engine, results: Path, options: dict[str, str], bucket: str, end: str, format: str
) -> None:
    def write(mode: str, task_id: str) -> Any:
        message = run_message(
            results,
            destination=f"s3://{bucket}{end}",
            mode=mode,
            format=format,
            storageOptions=options,
            tasks=[task(task_id)],
        )
        return engine.converse(message, serialize(NEW.lazy()))

    # What another job has staged is no data of the bucket's.
    other = ".frazil-staging/job_9/task_1-1/part-0.parquet"
    put(options, other, bucket=bucket)
    result = write("error", "task_a").one("done")["result"]
    assert result["locations"] == [f"s3://{bucket}/part-0.{format}"]
    read = {"parquet": pl.scan_parquet, "csv": pl.scan_csv}[format]
    assert_frame_equal(read(result["locations"][0], storage_options=options).collect(), NEW)
    assert write("append", "task_b").one("done")["result"]["locations"] == [f"s3://{bucket}/part-task_b.{format}"]
    there = [other, f"part-0.{format}", f"part-task_b.{format}"]
    assert keys(options, bucket=bucket) == there
    error = write("error", "task_c").one("failed")["error"]
    assert (error["code"], error["message"]) == ("destination_not_empty", f"s3://{bucket}/ already holds data.")
    assert "append" in error["hint"] and "overwrite" not in error["hint"]
    failed = write("overwrite", "task_d").one("failed")
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert "whole bucket" in failed["error"]["message"] and "append" in failed["error"]["hint"]
    assert keys(options, bucket=bucket) == there
    message = sweep_message(results, f"s3://{bucket}{end}", storageOptions=options, jobId="job_9")
    assert engine.converse(message).one("swept")["error"] is None
    assert keys(options, bucket=bucket) == there[1:]


@pytest.mark.parametrize("key", ["part-0.parquet", "notes.txt", "deep/down/notes.txt"])
def test_data_that_appears_in_a_bucket_meanwhile_is_kept(
    results: Path, options: dict[str, str], bucket: str, key: str
) -> None:
    from frazil_engine import destinations
    from frazil_engine.errors import Failure

    manifest = stage(results, options, "", "error", bucket=bucket)
    put(options, key, bucket=bucket)
    with pytest.raises(Failure) as refused:
        destinations.publish(manifest, options)
    assert (refused.value.code, refused.value.detail) == (
        "destination_not_empty",
        f"s3://{bucket}/ already holds data.",
    )


@pytest.mark.parametrize("mode", ["error", "append"])
def test_another_engine_finishes_publishing_into_a_bucket(
    engine: Engine, results: Path, options: dict[str, str], bucket: str, mode: str
) -> None:
    manifest = stage(results, options, "", mode, bucket=bucket)
    message = republish_message(manifest, options)
    name = "part-0.parquet" if mode == "error" else "part-task_1.parquet"
    for _ in range(2):
        talk = engine.converse(message)
        assert talk.one("done")["result"]["locations"] == [f"s3://{bucket}/{name}"]
        assert_frame_equal(pl.read_ipc_stream(talk.head), NEW)
    assert keys(options, bucket=bucket) == [name]


@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
def test_partitions_lie_right_in_a_bucket(
    engine: Engine, results: Path, options: dict[str, str], bucket: str, mode: str
) -> None:
    put(options, "notes.txt", bucket=bucket)
    tasks = [task(f"task_{frame}", frame=frame) for frame in range(2)]
    tasks.append(task("task_day", keyPath="day=1", keyToken="1"))
    for part in tasks:
        submit(engine, results, options, "", mode, bucket=bucket, tasks=[part]).one("done")
    names = ["part-0"] * 3 if mode != "append" else ["part-task_day", "part-task_0", "part-task_1"]
    places = [f"{folder}/{name}.parquet" for folder, name in zip(("day=1", "frame=0", "frame=1"), names, strict=True)]
    assert keys(options, bucket=bucket) == [*places, "notes.txt"]
    for place in places:
        assert_frame_equal(
            pl.read_parquet(f"s3://{bucket}/{place}", storage_options=options, hive_partitioning=False), NEW
        )


def test_a_bucket_that_is_named_like_a_file_is_a_bucket(engine: Engine, results: Path, options: dict[str, str]) -> None:
    bucket = "data.parquet"
    urllib.request.urlopen(urllib.request.Request(f"{options['aws_endpoint_url']}/{bucket}", method="PUT"))
    message = run_message(results, destination=f"s3://{bucket}", format="parquet", storageOptions=options)
    assert engine.converse(message, serialize(NEW.lazy())).one("done")["result"]["locations"] == [
        f"s3://{bucket}/part-0.parquet"
    ]


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_numbers_among_storage_options_travel_as_texts(
    engine: Engine, results: Path, options: dict[str, str], prefix: str, format: str
) -> None:
    result = submit(engine, results, {**options, **NUMBERS}, prefix, "error", format=format).one("done")["result"]
    assert result["rows"] == 3
    manifest = stage(results, {**options, **NUMBERS}, f"{prefix}/2", "error")
    message = republish_message(manifest, {**options, **NUMBERS})
    assert engine.converse(message).one("done")["result"]["rows"] == 3


def test_polars_is_given_its_numbers_as_it_takes_them() -> None:
    from frazil_engine import objects

    given = objects.for_polars({**NUMBERS, "aws_region": "5"})
    numbers = {name: float(text) if "." in text else int(text) for name, text in NUMBERS.items()}
    assert given == {**(numbers if objects.takes_numbers() else NUMBERS), "aws_region": "5"}
    assert objects.for_polars({"max_retries": "two"}) == {"max_retries": "two"}
    assert objects.for_polars({}) is None


@pytest.mark.parametrize(
    "extra",
    [
        {"aws_no_such_option": "1", "neither": "x"},
        {"google_service_account": "/nowhere"},
        {"aws_copy_if_not_exists": "multipart"},
        {"copy_if_not_exists": "multipart"},
        {"AWS_COPY_IF_NOT_EXISTS": "multipart"},
        {"read_timeout": "30s", "proxy_excludes": "127.0.0.1"},
    ],
)
def test_options_of_other_stores_and_options_of_copying_are_no_obstacle(
    engine: Engine, results: Path, options: dict[str, str], prefix: str, extra: dict[str, str]
) -> None:
    submit(engine, results, {**options, **extra}, prefix, "error").one("done")
    assert keys(options, f"{prefix}/") == [f"{prefix}/part-0.parquet"]


@pytest.mark.parametrize(
    ("extra", "destination"),
    [
        ({"aws_skip_signature": "maybe"}, "out/"),
        ({"timeout": "soon"}, "out/"),
        ({"aws_checksum_algorithm": "none-such"}, "out/"),
        ({"region": "us-east-1"}, "out/"),
        ({}, "dd//e/"),
        ({}, "dd//e.parquet"),
        ({}, "a/./b/"),
        ({}, "a/../b/"),
    ],
)
@pytest.mark.parametrize("mode", ["error", "append"])
def test_options_and_paths_that_no_store_takes_are_refused_for_good(
    engine: Engine, results: Path, options: dict[str, str], extra: dict[str, str], destination: str, mode: str
) -> None:
    failed = submit(engine, results, {**options, **extra}, destination, mode).one("failed")
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert ("path" if destination != "out/" else "storage options") in failed["error"]["hint"]


def test_append_adds_an_object_once_per_task(
    engine: Engine, results: Path, options: dict[str, str], prefix: str
) -> None:
    put(options, f"{prefix}/out/part-0.parquet")
    for task_id in ("task_a", "task_a", "task_b"):
        submit(engine, results, options, f"{prefix}/out", "append", tasks=[task(task_id)]).one("done")
    names = [key.rpartition("/")[2] for key in keys(options, f"{prefix}/")]
    assert names == ["part-0.parquet", "part-task_a.parquet", "part-task_b.parquet"]


def test_an_abandoned_attempt_leaves_nothing(
    engine: Engine, results: Path, options: dict[str, str], prefix: str
) -> None:
    submit(engine, results, options, f"{prefix}/out", "error", verb="abandon").one("failed")
    assert keys(options, f"{prefix}/") == [] and keys(options, ".frazil-staging/") == []


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_a_failed_query_leaves_nothing(
    engine: Engine, results: Path, options: dict[str, str], prefix: str, format: str
) -> None:
    def fail(frame: pl.DataFrame) -> pl.DataFrame:
        raise ValueError("no")

    message = run_message(results, destination=f"s3://{BUCKET}/{prefix}/out", format=format, storageOptions=options)
    engine.converse(message, serialize(NEW.lazy().map_batches(fail))).one("failed")
    engine.converse(
        run_message(f"s3://{BUCKET}/{prefix}", format=format, engine="streaming"),
        serialize(NEW.lazy().map_batches(fail)),
    ).one("failed")
    assert keys(options, f"{prefix}/") == [] and keys(options, ".frazil-staging/") == []


def lose_staged(results: Path, options: dict[str, str], destination: str, **fields: Any) -> None:
    """Stages an output as an engine does, and goes no further, as one that is killed."""
    stage(results, options, destination, "error", **fields)


def test_a_sweep_removes_what_killed_engines_staged_and_the_next_attempt_what_those_before_it_did(
    engine: Engine, results: Path, options: dict[str, str], prefix: str
) -> None:
    out = f"{prefix}/out/"
    for job_id, task_id, attempt in (("job_1", "task_1", 1), ("job_1", "task_2", 1), ("job_2", "task_1", 1)):
        lose_staged(results, options, out, jobId=job_id, tasks=[task(task_id, attempt)])
    assert len(keys(options, ".frazil-staging/")) == 3
    submit(engine, results, options, out, "error", tasks=[task("task_1", 2)]).one("done")
    staged = [".frazil-staging/job_1/task_2-1/part-0.parquet", ".frazil-staging/job_2/task_1-1/part-0.parquet"]
    assert keys(options, ".frazil-staging/") == staged
    for job_id in ("job_1", "job_2"):
        message = sweep_message(results, f"s3://{BUCKET}/{out}", storageOptions=options, jobId=job_id)
        assert engine.converse(message).one("swept")["error"] is None
        staged = [key for key in staged if job_id not in key]
        assert keys(options, ".frazil-staging/") == staged
    assert keys(options, f"{prefix}/") == [f"{out}part-0.parquet"]


def test_results_of_attempts_that_lost_are_removed_in_a_store_too(
    engine: Engine, options: dict[str, str], prefix: str
) -> None:
    location = f"s3://{BUCKET}/{prefix}"
    for task_id, attempt in (("task_1", 1), ("task_1", 2), ("task_2", 1)):
        message = run_message(location, format="parquet", tasks=[task(task_id, attempt)])
        engine.converse(message, serialize(NEW.lazy())).one("done")
    assert keys(options, f"{prefix}/") == [f"{prefix}/job_1/task_1/2.parquet", f"{prefix}/job_1/task_2/1.parquet"]
    lost = [{"taskId": "task_1", "attempt": 1}, {"taskId": "task_2", "attempt": 1}]
    assert engine.converse(sweep_message(location, None, attempts=lost)).one("swept")["error"] is None
    assert keys(options, f"{prefix}/") == [f"{prefix}/job_1/task_1/2.parquet"]


def test_a_bucket_that_is_not_there_is_the_callers_mistake_and_no_secret_is_told(
    engine: Engine, results: Path, options: dict[str, str]
) -> None:
    message = run_message(results, destination="s3://nowhere-at-all/out", format="parquet", storageOptions=options)
    failed = engine.converse(message, serialize(NEW.lazy())).one("failed")
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert "test-secret-key" not in str(failed)


def stage(
    results: Path, options: dict[str, str], destination: str, mode: str, bucket: str = BUCKET, **fields: Any
) -> Message:
    """An output staged in this process. Gives the manifest."""
    from frazil_engine.destinations import Staging
    from frazil_engine.protocol import read_runs
    from frazil_engine.sinks import write_result

    message = run_message(
        results,
        destination=f"s3://{bucket}/{destination}",
        format="parquet",
        mode=mode,
        storageOptions=options,
        **fields,
    )
    [run] = read_runs({**message, "plan": {"kind": "dsl", "bytes": [0]}}, b"")
    staging = Staging(run, run.tasks[0])
    return staging.seal(write_result(NEW.lazy(), staging.target, "parquet", {}, "streaming", 0), [])


def republish_message(manifest: Message, options: dict[str, str]) -> Message:
    fields = {"type": "republish", "jobId": "job_1", "task": task(), "cwd": None}
    return {**fields, "manifest": manifest, "storageOptions": options}


class Crash(BaseException):
    pass


@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
@pytest.mark.parametrize("destination", ["out/", "out.parquet"])
def test_publishing_is_finished_from_wherever_it_stopped(
    results: Path, options: dict[str, str], prefix: str, mode: str, destination: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    from frazil_engine import destinations

    finished = False
    operations = 0
    while not finished:
        assert operations < 10
        place = f"{prefix}/{operations}"
        if mode == "overwrite":
            put(options, f"{place}/out/part-7.parquet")
        manifest = stage(results, options, f"{place}/{destination}", mode)
        left = [operations]

        def counted(function: Any, left: list[int] = left) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                if left[0] == 0:
                    raise Crash
                left[0] -= 1
                return function(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("copy", "delete", "put"):
                patch.setattr(obstore, name, counted(getattr(obstore, name)))
            try:
                destinations.publish(manifest, options)
                finished = True
            except Crash:
                pass
        for _ in range(2):
            location = destinations.publish(manifest, options)
        assert_frame_equal(pl.read_parquet(location, storage_options=options), NEW)
        own = (
            "out.parquet"
            if destination == "out.parquet"
            else "out/part-task_1.parquet"
            if mode == "append"
            else "out/part-0.parquet"
        )
        other = ["out/part-7.parquet"] if mode == "overwrite" and destination == "out.parquet" else []
        assert keys(options, f"{place}/") == sorted(f"{place}/{key}" for key in [own, *other])
        assert keys(options, ".frazil-staging/") == []
        operations += 1
    assert operations >= 3


@pytest.mark.parametrize("is_copying", [False, True])
def test_a_late_publisher_keeps_what_came_after_its_output(
    results: Path, options: dict[str, str], prefix: str, is_copying: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine was frozen, before it copied or while it did, and another one has published from the manifest."""
    from frazil_engine import destinations, publish_objects

    put(options, f"{prefix}/out/part-9.parquet")
    manifest = stage(results, options, f"{prefix}/out/", "overwrite")
    plain_copy = publish_objects.copy

    def publish_elsewhere() -> None:
        monkeypatch.setattr(publish_objects, "copy", plain_copy)
        destinations.publish(manifest, options)
        put(options, f"{prefix}/out/part-task_b.parquet")

    def copy(*arguments: Any) -> None:
        plain_copy(*arguments)
        publish_elsewhere()

    if is_copying:
        monkeypatch.setattr(publish_objects, "copy", copy)
    else:
        publish_elsewhere()
    location = destinations.publish(manifest, options)
    assert keys(options, f"{prefix}/") == [f"{prefix}/out/part-0.parquet", f"{prefix}/out/part-task_b.parquet"]
    assert_frame_equal(pl.read_parquet(location, storage_options=options), NEW)


def test_objects_too_large_for_one_copy_go_through_this_machine(
    results: Path, options: dict[str, str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    from frazil_engine import destinations, publish_objects

    monkeypatch.setattr(publish_objects, "COPY_BYTES_MAX", 10)
    monkeypatch.setattr(obstore, "copy", None)
    for mode in ("error", "overwrite"):
        manifest = stage(results, options, f"{prefix}/{mode}/", mode)
        assert_frame_equal(pl.read_parquet(destinations.publish(manifest, options), storage_options=options), NEW)


@pytest.mark.parametrize("memory", [4 << 30, 1])
def test_a_partitioned_job_in_a_store(engine: Engine, options: dict[str, str], prefix: str, memory: int) -> None:
    data = pl.DataFrame({"day": ["a/b", "c", None] * 4, "v": list(range(12))})
    data.write_parquet(f"s3://{BUCKET}/{prefix}/in/data.parquet", storage_options=options)
    plan = serialize(pl.scan_parquet(f"s3://{BUCKET}/{prefix}/in/*.parquet", storage_options=options).select("v"))
    fields: dict[str, Any] = {"partitionBy": partition_by("day"), "memoryBytes": memory}
    found = engine.converse(run_message(f"s3://{BUCKET}/{prefix}/results", kind="split", **fields), plan).one("keys")
    assert (found["splitState"]["pieces"] is not None) == (memory == 1)
    tasks = [task(f"task_{row}", keyToken=key["token"], keyPath=key["path"]) for row, key in enumerate(found["keys"])]
    message = run_message(
        f"s3://{BUCKET}/{prefix}/results", kind="key", tasks=tasks, splitState=found["splitState"],
        destination=f"s3://{BUCKET}/{prefix}/out", format="parquet", storageOptions=options, **fields,
    )  # fmt: skip
    assert len(engine.converse(message, plan).all("done")) == 3
    # What is left of the pieces goes with the job.
    assert all("/.pieces/" in key for key in keys(options, f"{prefix}/results"))
    message = sweep_message(f"s3://{BUCKET}/{prefix}/results", f"s3://{BUCKET}/{prefix}/out", storageOptions=options)
    assert engine.converse(message).one("swept")["error"] is None
    assert keys(options, f"{prefix}/results") == []
    for value, path in (("a/b", "day=a%2Fb"), ("c", "day=c"), (None, "day=__HIVE_DEFAULT_PARTITION__")):
        found_rows = pl.read_parquet(
            f"s3://{BUCKET}/{prefix}/out/{path}/part-0.parquet",
            storage_options=options,
            hive_partitioning=False,
            glob=False,
        )
        assert_frame_equal(found_rows, data.filter(pl.col("day").eq_missing(pl.lit(value))).select("v"))
    assert len(keys(options, f"{prefix}/out/")) == 3
