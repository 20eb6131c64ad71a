"""What users see when something goes wrong, and that the process goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import Engine, Message, run_message, serialize
from polars.io.plugins import register_io_source

from frazil_engine.errors import secret_values


def fail(process: Engine, results: Path, frame: pl.LazyFrame, **fields: Any) -> Message:
    """Runs a frame that fails. The process must be able to run another one afterwards."""
    failed = process.converse(run_message(results, **fields), serialize(frame)).one("failed")
    good = process.converse(run_message(results), serialize(pl.LazyFrame({"a": [1]})))
    assert good.one("done")["result"]["rows"] == 1
    return failed


def element_udf(function: Callable[[Any], Any]) -> pl.LazyFrame:
    return pl.LazyFrame({"a": [1, 2]}).select(pl.col("a").map_elements(function, return_dtype=pl.Int64))


def frame_udf(function: Callable[[Any], Any]) -> pl.LazyFrame:
    return pl.LazyFrame({"a": [1, 2]}).map_batches(function)


@pytest.mark.parametrize("make", [element_udf, frame_udf])
@pytest.mark.parametrize("choice", ["streaming", "in-memory"])
def test_an_exception_of_user_code_keeps_its_type_its_message_and_its_lines(
    engine: Engine, results: Path, make: Any, choice: str
) -> None:
    class Unhappy(Exception):
        pass

    def inner(value: Any) -> Any:
        raise Unhappy("it did not work")

    def outer(value: Any) -> Any:
        return inner(value)

    failed = fail(engine, results, make(outer), engine=choice)
    error = failed["error"]
    assert (error["code"], error["type"], error["message"]) == ("user_code_failed", "Unhappy", "it did not work")
    assert failed["retryable"] is False
    lines = error["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f'File "{__file__}"' in lines[1] and lines[1].endswith("in outer")
    assert "return inner(value)" in error["traceback"]
    assert "site-packages/polars" not in error["traceback"] and "frazil_engine/" not in error["traceback"]


def every_place_for_user_code() -> dict[str, pl.LazyFrame]:
    """Frames that fail in user code, of every kind that Polars takes."""

    class Unhappy(Exception):
        def __init__(self, first: str, second: int) -> None:
            super().__init__(f"{first} {second}")

    def fail(*_values: Any, **_named: Any) -> Any:
        raise Unhappy("number", 5)

    def fail_late(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        yield pl.DataFrame({"a": [1]})
        raise Unhappy("number", 5)

    frame = pl.LazyFrame({"a": [1, 2]})
    column = pl.col("a")
    return {
        "elements": frame.select(column.map_elements(fail, return_dtype=pl.Int64)),
        "column": frame.select(column.map_batches(fail, return_dtype=pl.Int64)),
        "groups": frame.group_by("a").map_groups(fail, schema={"a": pl.Int64}),
        "fold": frame.select(pl.fold(pl.lit(0), fail, [column], return_dtype=pl.Int64)),
        "rolling": frame.select(column.rolling_map(fail, 2)),
        "names": frame.select(column.name.map(fail)),
        "pipe": frame.pipe_with_schema(fail),
        "source": register_io_source(fail, schema={"a": pl.Int64}),
        "source in the middle": register_io_source(fail_late, schema={"a": pl.Int64}),
        "schema of a source": register_io_source(fail_late, schema=fail),
    }


@pytest.mark.smoke
@pytest.mark.parametrize("place", list(every_place_for_user_code()))
def test_user_code_of_every_kind_fails_with_its_own_exception(engine: Engine, results: Path, place: str) -> None:
    error = fail(engine, results, every_place_for_user_code()[place])["error"]
    assert (error["code"], error["type"], error["message"]) == ("user_code_failed", "Unhappy", "number 5")
    assert 'raise Unhappy("number", 5)' in error["traceback"]
    assert "site-packages/polars" not in error["traceback"] and "frazil_engine/" not in error["traceback"]


def every_place_for_a_stop() -> dict[str, pl.LazyFrame]:
    """Frames whose user code asks for the next of nothing."""

    def stop(*_values: Any, **_named: Any) -> Any:
        return next(iter([]))

    def stop_early(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        next(iter([]))
        yield pl.DataFrame({"a": [1]})

    def stop_late(with_columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Any:
        yield pl.DataFrame({"a": [1]})
        next(iter([]))

    frame = pl.LazyFrame({"a": [1, 2]})
    return {
        "elements": frame.select(pl.col("a").map_elements(stop, return_dtype=pl.Int64)),
        "column": frame.select(pl.col("a").map_batches(stop, return_dtype=pl.Int64)),
        "frame": frame.map_batches(stop),
        "groups": frame.group_by("a").map_groups(stop, schema={"a": pl.Int64}),
        "source": register_io_source(stop, schema={"a": pl.Int64}),
        "source at its beginning": register_io_source(stop_early, schema={"a": pl.Int64}),
        "source in the middle": register_io_source(stop_late, schema={"a": pl.Int64}),
        "schema of a source": register_io_source(stop_late, schema=stop),
    }


@pytest.mark.parametrize("choice", ["streaming", "in-memory"])
@pytest.mark.parametrize("place", list(every_place_for_a_stop()))
def test_the_next_of_nothing_is_a_failure_of_user_code(engine: Engine, results: Path, place: str, choice: str) -> None:
    failed = fail(engine, results, every_place_for_a_stop()[place], engine=choice)
    assert (failed["error"]["code"], failed["retryable"]) == ("user_code_failed", False)
    assert "next(iter([]))" in failed["error"]["traceback"] and "StopIteration" in failed["error"]["traceback"]
    assert "frazil_engine/" not in failed["error"]["traceback"]


def test_a_library_function_that_fails_is_user_code(engine: Engine, results: Path) -> None:
    import json

    frame = pl.LazyFrame({"a": ["{x"]}).select(pl.col("a").map_elements(json.loads, return_dtype=pl.Int64))
    error = fail(engine, results, frame)["error"]
    assert (error["code"], error["type"]) == ("user_code_failed", "JSONDecodeError")


def test_a_failure_of_the_engine_itself_is_not_blamed_on_the_user(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where a directory is wanted")
    message = run_message(tmp_path / "results", engine="streaming")
    failed = engine.converse(message, serialize(pl.LazyFrame({"a": [1]}))).one("failed")
    assert failed["error"]["code"] == "storage_refused"


def test_a_panic_of_polars_is_a_failed_query() -> None:
    from frazil_engine.errors import describe_error

    info, retryable = describe_error(pl.exceptions.PanicException("index out of bounds"))
    assert (info["code"], info["type"], retryable) == ("query_failed", "PanicException", False)


def test_an_exception_with_a_cause_shows_both(engine: Engine, results: Path) -> None:
    def chained(frame: pl.DataFrame) -> pl.DataFrame:
        try:
            {}["missing"]
        except KeyError as error:
            raise ValueError("no such thing") from error
        return frame

    traceback = fail(engine, results, frame_udf(chained))["error"]["traceback"]
    assert (
        "KeyError: 'missing'" in traceback and "direct cause" in traceback and "ValueError: no such thing" in traceback
    )


@pytest.mark.smoke
def test_an_error_of_polars_keeps_its_type(engine: Engine, results: Path) -> None:
    failed = fail(engine, results, pl.LazyFrame({"a": [1]}).select("nowhere"))
    assert failed["error"]["code"] == "query_failed"
    assert failed["error"]["type"] == "ColumnNotFoundError"
    assert failed["error"]["module"] == "polars.exceptions"
    assert "nowhere" in failed["error"]["message"]
    assert failed["retryable"] is False


def test_a_polars_error_inside_user_code_is_user_code(engine: Engine, results: Path) -> None:
    def select(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select("nowhere")

    error = fail(engine, results, frame_udf(select))["error"]
    assert (error["code"], error["type"]) == ("user_code_failed", "ColumnNotFoundError")
    assert 'frame.select("nowhere")' in error["traceback"]


def test_a_missing_module_is_answered_with_what_to_install(engine: Engine, results: Path) -> None:
    def use(frame: pl.DataFrame) -> pl.DataFrame:
        import not_installed_anywhere.part  # type: ignore[import-not-found]  # noqa: F401

        return frame

    error = fail(engine, results, frame_udf(use))["error"]
    assert (error["code"], error["type"]) == ("user_code_failed", "ModuleNotFoundError")
    assert 'packages=["not_installed_anywhere"]' in error["hint"]


def test_a_function_of_a_missing_module_is_answered_with_what_to_install(
    engine: Engine, results: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "only_here.py").write_text("def same(frame):\n    return frame\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    error = fail(engine, results, frame_udf(only_here.same))["error"]
    assert error["code"] == "user_code_failed"
    assert 'packages=["only_here"]' in error["hint"]


def test_sys_exit_fails_the_task_and_not_the_process(engine: Engine, results: Path) -> None:
    def leave(frame: pl.DataFrame) -> pl.DataFrame:
        import sys

        sys.exit(3)

    failed = fail(engine, results, frame_udf(leave))
    assert failed["error"]["code"] == "user_code_failed"
    assert "sys.exit(3)" in failed["error"]["message"]


def test_running_out_of_memory_in_python_is_named_so(engine: Engine, results: Path) -> None:
    def grow(frame: pl.DataFrame) -> pl.DataFrame:
        raise MemoryError

    assert fail(engine, results, frame_udf(grow))["error"]["code"] == "out_of_memory"


@pytest.mark.parametrize("make", [element_udf, frame_udf])
@pytest.mark.parametrize("choice", ["streaming", "in-memory"])
def test_a_message_that_cannot_be_made_does_not_hide_the_error(
    engine: Engine, results: Path, make: Any, choice: str
) -> None:
    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not telling")

    def raise_shy(value: Any) -> Any:
        raise Shy

    error = fail(engine, results, make(raise_shy), engine=choice)["error"]
    assert (error["code"], error["type"]) == ("user_code_failed", "Shy")
    assert error["message"] == "(its message could not be made: RuntimeError)"
    assert "raise Shy" in error["traceback"]


def test_an_error_that_cannot_be_looked_at_is_answered_all_the_same(engine: Engine, results: Path) -> None:
    def raise_nameless(frame: pl.DataFrame) -> pl.DataFrame:
        raise ModuleNotFoundError("no such module", name=5)  # type: ignore[arg-type]

    failed = fail(engine, results, frame_udf(raise_nameless))
    assert (failed["error"]["code"], failed["retryable"]) == ("internal", False)
    assert "ModuleNotFoundError" in failed["error"]["message"]


def test_long_errors_are_cut(engine: Engine, results: Path) -> None:
    def shout(frame: pl.DataFrame) -> pl.DataFrame:
        raise ValueError("x" * 1_000_000)

    error = fail(engine, results, frame_udf(shout))["error"]
    assert len(error["message"]) == 8 * 1024
    assert len(error["traceback"]) <= 32 * 1024


def test_a_missing_file_is_the_callers_mistake(engine: Engine, results: Path, tmp_path: Path) -> None:
    failed = fail(engine, results, pl.scan_parquet(tmp_path / "nowhere.parquet"))
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_refused", False)
    assert "nowhere.parquet" in failed["error"]["message"]


def test_storage_that_does_not_answer_may_be_tried_again_and_no_secret_is_told(engine: Engine, results: Path) -> None:
    options: dict[str, Any] = {
        "aws_endpoint_url": "http://127.0.0.1:9",
        "aws_allow_http": "true",
        "aws_access_key_id": "AKIAVERYSECRETID",
        "aws_secret_access_key": "verysecretkey",
        "aws_region": "us-east-1",
    }
    # An older release takes the number of tries as an argument of its own.
    tries = {"retries": 0} if pl.__version__ < "1.36" else {"storage_options": {**options, "max_retries": 0}}
    frame = pl.scan_parquet("s3://bucket/data.parquet", **{"storage_options": options, **tries})
    failed = fail(engine, results, frame)
    assert (failed["error"]["code"], failed["retryable"]) == ("storage_failed", True)
    assert "VERYSECRETID" not in str(failed) and "verysecretkey" not in str(failed)


def test_values_of_storage_options_are_taken_out_of_messages(engine: Engine, results: Path) -> None:
    def tell(frame: pl.DataFrame) -> pl.DataFrame:
        raise ValueError("the key is s3cr3t-value in us-east-1")

    destination = "s3://bucket/out"
    failed = fail(
        engine,
        results,
        frame_udf(tell),
        storageOptions={"aws_secret_access_key": "s3cr3t-value", "aws_region": "us-east-1"},
    )
    assert destination not in str(failed)
    assert failed["error"]["message"] == "the key is [redacted] in us-east-1"
    assert "s3cr3t-value" not in str(failed)


def test_switches_and_numbers_of_storage_options_stay_in_messages(engine: Engine, results: Path) -> None:
    frame = pl.LazyFrame({"a": [1]}).select("is_true_in_2024_sha256")
    options = {
        "aws_skip_signature": "true",
        "some_switch": "True",
        "some_number": "2024",
        "aws_checksum_algorithm": "sha256",
    }
    failed = fail(engine, results, frame, storageOptions=options)
    assert 'unable to find column "is_true_in_2024_sha256"' in failed["error"]["message"]


def test_secrets_are_told_from_plain_options() -> None:
    plain = {
        "aws_skip_signature": "anything",
        "aws_s3_express": "anything",
        "aws_imdsv1_fallback": "anything",
        "aws_disable_tagging": "anything",
        "aws_server_side_encryption": "aws:kms",
        "aws_checksum_algorithm": "sha256",
        "some_switch": "FALSE",
        "some_number": "10000",
        "some_share": "12.75",
    }
    secret = {
        "aws_secret_access_key": "s3cr3t-value",
        "aws_session_token": "truetrue",
        "aws_sse_kms_key_id": "key-of-mine",
        "aws_server_side_encryption_key": "another-key",
        "azure_storage_sas_token": "2024-01-01",
        "aws_access_key_id": "123456",
    }
    assert secret_values({**plain, **secret}) == set(secret.values())


def test_a_gpu_is_not_here(engine: Engine, results: Path) -> None:
    error = fail(engine, results, pl.LazyFrame({"a": [1]}), engine="gpu")["error"]
    assert error["code"] == "not_available" and "cudf_polars" in error["message"]


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_an_unknown_option_is_named_with_those_that_are_known(engine: Engine, results: Path, format: str) -> None:
    error = fail(engine, results, pl.LazyFrame({"a": [1]}), format=format, options={"colour": "red"})["error"]
    assert error["code"] == "unprocessable"
    assert "no option colour" in error["message"] and "maintain_order" in error["message"]
    assert "storage_options" not in error["message"]


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_object_columns_are_refused_by_name(engine: Engine, results: Path, format: str) -> None:
    def objects(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(thing=pl.Series([object()], dtype=pl.Object))

    frame = pl.LazyFrame({"a": [1]}).map_batches(objects, schema={"a": pl.Int64, "thing": pl.Object})
    error = fail(engine, results, frame, format=format)["error"]
    assert error["code"] == "result_unsupported" and '"thing"' in error["message"]
