"""Publishing on a local file system: atomic, refused in time, and finished by whoever comes after a crash."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from driver import Engine, Message, run_message, serialize, task
from polars.testing import assert_frame_equal

from frazil_engine import publish_local, publish_lock
from frazil_engine.errors import Failure

OLD = pl.DataFrame({"a": [0, 0]})
NEW = pl.DataFrame({"a": [1, 2, 3]})
CRASHED = 9


def submit(
    engine: Engine, results: Path, destination: Path | str, mode: str, verb: str | None = "publish", **fields: Any
) -> Any:
    message = run_message(
        results, destination=str(destination), format=fields.pop("format", "parquet"), mode=mode, **fields
    )
    return engine.converse(message, serialize(NEW.lazy()), verb)


def tree(folder: Path) -> list[str]:
    """Every file and empty directory below, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return sorted(str(path.relative_to(folder)) for path in paths)


def lay_old(destination: Path) -> None:
    """Data of an earlier job at the destination."""
    if destination.suffix == ".parquet":
        OLD.write_parquet(destination)
        return
    destination.mkdir(parents=True)
    OLD.write_parquet(destination / "part-0.parquet")
    OLD.write_parquet(destination / "part-1.parquet")


@pytest.mark.parametrize("format", ["parquet", "csv", "ipc", "ndjson"])
def test_a_missing_directory_is_made(engine: Engine, results: Path, tmp_path: Path, format: str) -> None:
    root = tmp_path / "data"
    talk = submit(engine, results, root / "new" / "out", "error", format=format)
    extension = {"ipc": "arrow"}.get(format, format)
    assert talk.one("done")["result"]["locations"] == [str(root / "new" / "out" / f"part-0.{extension}")]
    assert tree(root) == [f"new/out/part-0.{extension}"]


@pytest.mark.parametrize("name", ["out.parquet", "out.PQ"])
def test_a_name_with_the_formats_extension_is_a_file(engine: Engine, results: Path, tmp_path: Path, name: str) -> None:
    submit(engine, results, tmp_path / "d" / name, "error").one("done")
    assert tree(tmp_path / "d") == [name]


def test_a_name_that_ends_in_a_slash_is_a_directory(engine: Engine, results: Path, tmp_path: Path) -> None:
    submit(engine, results, f"{tmp_path}/d/out.parquet/", "error").one("done")
    assert tree(tmp_path / "d") == ["out.parquet/part-0.parquet"]


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_data_at_the_destination_is_kept_in_mode_error(
    engine: Engine, results: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "d"
    root.mkdir()
    lay_old(root / name)
    before = tree(root)
    failed = submit(engine, results, root / name, "error").one("failed")
    assert failed["error"]["code"] == "destination_not_empty" and failed["retryable"] is False
    assert 'mode="overwrite"' in failed["error"]["hint"] and 'mode="append"' in failed["error"]["hint"]
    assert tree(root) == before


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_data_that_appears_meanwhile_is_kept_in_mode_error(
    engine: Engine, results: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "d"
    engine.send(run_message(results, destination=str(root / name), format="parquet"), serialize(NEW.lazy()))
    while (answer := engine.receive()[0])["type"] != "staged":
        assert answer["type"] == "opened"
    assert not (root / name).exists()
    lay_old(root / name)
    before = [path for path in tree(root) if not path.startswith(".frazil-staging")]
    engine.send({"type": "publish", "taskId": "task_1"})
    failed = engine.receive()[0]
    assert failed["type"] == "failed" and failed["error"]["code"] == "destination_not_empty"
    assert engine.receive()[0]["type"] == "idle"
    assert tree(root) == before


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_overwrite_replaces_all_of_it(engine: Engine, results: Path, tmp_path: Path, name: str) -> None:
    root = tmp_path / "d"
    root.mkdir()
    lay_old(root / name)
    talk = submit(engine, results, root / name, "overwrite")
    assert_frame_equal(pl.read_parquet(root / name), NEW)
    assert len(tree(root)) == 1
    assert Path(talk.one("done")["result"]["locations"][0]).exists()


def test_overwrite_of_nothing_is_a_first_write(engine: Engine, results: Path, tmp_path: Path) -> None:
    submit(engine, results, tmp_path / "d" / "out", "overwrite").one("done")
    (tmp_path / "d" / "empty").mkdir()
    submit(engine, results, tmp_path / "d" / "empty", "overwrite").one("done")
    assert tree(tmp_path / "d") == ["empty/part-0.parquet", "out/part-0.parquet"]


def test_append_adds_a_file_once_per_task(engine: Engine, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "d" / "out"
    lay_old(out)
    for task_id in ("task_a", "task_b", "task_b"):
        submit(engine, results, out, "append", tasks=[task(task_id)]).one("done")
    assert tree(tmp_path / "d") == [
        "out/part-0.parquet",
        "out/part-1.parquet",
        "out/part-task_a.parquet",
        "out/part-task_b.parquet",
    ]
    assert pl.read_parquet(out).height == 2 * OLD.height + 2 * NEW.height


def test_nothing_is_appended_to_one_file(engine: Engine, results: Path, tmp_path: Path) -> None:
    OLD.write_parquet(tmp_path / "out.parquet")
    error = submit(engine, results, tmp_path / "out.parquet", "append").one("failed")["error"]
    assert error["code"] == "unprocessable"
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), OLD)


@pytest.mark.parametrize("name", ["notes.txt", "subdirectory/data.parquet"])
def test_overwrite_does_not_delete_what_no_query_wrote(
    engine: Engine, results: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "home"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("dear diary")
    error = submit(engine, results, out, "overwrite").one("failed")["error"]
    assert error["code"] == "storage_refused" and name.split("/")[0] in error["message"]
    assert tree(out) == [name]


def test_an_abandoned_attempt_leaves_nothing(engine: Engine, results: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    failed = submit(engine, results, tmp_path / "d" / "out", "error", verb="abandon").one("failed")
    assert failed["error"]["code"] == "stale_attempt" and failed["retryable"] is False
    assert list((tmp_path / "d").iterdir()) == []


def test_a_failed_query_leaves_nothing(engine: Engine, results: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    message = run_message(results, destination=str(tmp_path / "d" / "out"), format="parquet")
    engine.converse(message, serialize(NEW.lazy().select("nowhere"))).one("failed")
    assert list((tmp_path / "d").iterdir()) == []


def test_frames_get_directories_of_their_own(engine: Engine, results: Path, tmp_path: Path) -> None:
    for frame in (0, 17):
        submit(engine, results, tmp_path / "d" / "out", "error", tasks=[task(f"task_{frame}", frame=frame)]).one("done")
    assert tree(tmp_path / "d") == ["out/frame=0/part-0.parquet", "out/frame=17/part-0.parquet"]
    error = submit(engine, results, tmp_path / "d" / "x.parquet", "error", tasks=[task(frame=1)]).one("failed")["error"]
    assert error["code"] == "unprocessable" and "end the destination in /" in error["hint"]


@pytest.mark.parametrize("path", ["../escape=1", "day=1/..", "", "day", "/day=1", "day=a\0b"])
def test_a_task_cannot_write_beside_its_destination(engine: Engine, results: Path, tmp_path: Path, path: str) -> None:
    error = submit(engine, results, tmp_path / "d" / "out", "error", tasks=[task(keyPath=path)]).one("failed")["error"]
    assert error["code"] == "invalid_request"
    assert not (tmp_path / "d").exists()


def test_a_destination_behind_a_link_is_replaced_and_not_the_link(
    engine: Engine, results: Path, tmp_path: Path
) -> None:
    lay_old(tmp_path / "real" / "out")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "out")
    submit(engine, results, tmp_path / "link", "overwrite").one("done")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "real") == ["out/part-0.parquet"]


@pytest.mark.parametrize("frame", [None, 3])
def test_a_whole_file_system_is_no_destination(engine: Engine, results: Path, frame: int | None) -> None:
    for root in ("/", "/proc"):
        error = submit(engine, results, root, "overwrite", tasks=[task(frame=frame)]).one("failed")["error"]
        assert error["code"] == "storage_refused" and "below it" in error["hint"]


def test_a_directory_that_allows_no_staging_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from frazil_engine.errors import Failure
    from frazil_engine.publish_local import make_staging

    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(Failure, match="/shared can't be written to") as caught:
        make_staging("/shared/.frazil-staging/task_1-1/data")
    assert caught.value.code == "storage_refused"


def test_the_manifest_is_small_and_tells_no_secret(engine: Engine, results: Path, tmp_path: Path) -> None:
    wide = pl.LazyFrame({f"a column with a rather long name {number}": [1] for number in range(5_000)})
    message = run_message(
        results, destination=str(tmp_path / "out"), format="csv", storageOptions={"token": "very-secret"}
    )
    talk = engine.converse(message, serialize(wide))
    import json

    manifest = json.dumps(talk.one("staged")["manifest"])
    assert len(manifest) <= 32 * 1024 and "very-secret" not in manifest
    assert len(talk.one("done")["result"]["schema"]) == 5_000


def stage(engine: Engine, results: Path, destination: Path, mode: str) -> Message:
    """A staged output whose engine goes away. Gives the manifest."""
    message = run_message(results, destination=str(destination), format="parquet", mode=mode)
    engine.send(message, serialize(NEW.lazy()))
    while (answer := engine.receive()[0])["type"] != "staged":
        assert answer["type"] == "opened"
    return answer["manifest"]


def stage_here(results: Path, destination: Path, mode: str) -> Message:
    """The same in this process, which is faster."""
    from frazil_engine.destinations import Staging
    from frazil_engine.protocol import read_runs
    from frazil_engine.sinks import write_result

    message = run_message(results, destination=str(destination), format="parquet", mode=mode)
    [run] = read_runs({**message, "plan": {"kind": "dsl", "bytes": [0]}}, b"")
    staging = Staging(run, run.tasks[0])
    return staging.seal(write_result(NEW.lazy(), staging.target, "parquet", {}, "streaming", 0), [])


def crash_after(operations: int, action: Callable[[], object]) -> bool:
    """Runs the action in a child that ends at once, without any clean-up, after so many file system operations. Whether
    it came to its end before.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, CRASHED)
        return code == 0
    left = [operations]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if left[0] == 0:
                os._exit(CRASHED)
            left[0] -= 1
            return function(*arguments, **named)

        return call

    try:
        from frazil_engine import publish_local

        for name in ("mkdir", "rename", "replace", "link", "unlink", "rmdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        publish_local.exchange = counted(publish_local.exchange)
        action()
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)
    os._exit(0)


CASES = [
    (mode, name, exists)
    for mode in ("error", "overwrite", "append")
    for name in ("out", "out.parquet")
    for exists in (False, True)
]


@pytest.mark.parametrize("is_exchanged", [True, False])
@pytest.mark.parametrize(
    ("mode", "name", "exists"),
    [case for case in CASES if not (case[2] and (case[0] == "error" or case[:2] == ("append", "out.parquet")))],
)
def test_publishing_is_finished_from_wherever_it_stopped(
    results: Path,
    tmp_path: Path,
    mode: str,
    name: str,
    exists: bool,
    is_exchanged: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from frazil_engine import destinations, publish_local

    if not is_exchanged:
        monkeypatch.setattr(publish_local, "find_renameat2", lambda: None)
    operations = 0
    finished = False
    while not finished:
        assert operations < 60
        root = tmp_path / f"{operations}" / "d"
        root.mkdir(parents=True)
        if exists:
            lay_old(root / name)
        manifest = stage_here(results, root / name, mode)
        finished = crash_after(operations, functools.partial(destinations.publish, manifest, {}))
        for _ in range(2):
            location = destinations.publish(manifest, {})
        assert_frame_equal(pl.read_parquet(location), NEW)
        kept = ["out/part-0.parquet", "out/part-1.parquet"] if exists and mode == "append" else []
        own = name if name == "out.parquet" else "out/part-task_1.parquet" if mode == "append" else "out/part-0.parquet"
        assert tree(root) == sorted([*kept, own])
        operations += 1
    assert operations > 3


@pytest.mark.smoke
def test_another_engine_finishes_the_publishing(engine: Engine, results: Path, tmp_path: Path) -> None:
    with Engine() as first:
        manifest = stage(first, results, tmp_path / "d" / "out", "error")
    republish = {
        "type": "republish",
        "jobId": "job_1",
        "task": task(),
        "manifest": manifest,
        "storageOptions": {},
        "cwd": None,
    }
    for _ in range(2):
        talk = engine.converse(republish)
        result = talk.one("done")["result"]
        assert result["rows"] == 3 and result["schema"] == [{"name": "a", "dtype": "Int64"}]
        assert_frame_equal(pl.read_ipc_stream(talk.head), NEW)
        assert tree(tmp_path / "d") == ["out/part-0.parquet"]


def test_a_republished_text_file_still_has_its_schema(engine: Engine, results: Path, tmp_path: Path) -> None:
    with Engine() as first:
        first.send(run_message(results, destination=str(tmp_path / "d" / "out"), format="csv"), serialize(NEW.lazy()))
        while (answer := first.receive()[0])["type"] != "staged":
            pass
    republish = {
        "type": "republish",
        "jobId": "job_1",
        "task": task(),
        "manifest": answer["manifest"],
        "storageOptions": {},
        "cwd": None,
    }
    talk = engine.converse(republish)
    assert talk.one("done")["result"]["schema"] == [{"name": "a", "dtype": "Int64"}]
    assert talk.one("done")["result"]["rows"] == 3 and talk.head == b""


def test_republishing_what_is_gone_fails(engine: Engine, results: Path, tmp_path: Path) -> None:
    import shutil

    with Engine() as first:
        manifest = stage(first, results, tmp_path / "d" / "out", "overwrite")
    shutil.rmtree(tmp_path / "d" / ".frazil-staging")
    lay_old(tmp_path / "d" / "out")
    before = tree(tmp_path)
    republish = {
        "type": "republish",
        "jobId": "job_1",
        "task": task(),
        "manifest": manifest,
        "storageOptions": {},
        "cwd": None,
    }
    failed = engine.converse(republish).one("failed")
    assert failed["error"]["code"] == "storage_failed" and failed["retryable"] is False
    assert tree(tmp_path) == before


def test_a_reader_never_sees_part_of_an_overwrite(engine: Engine, results: Path, tmp_path: Path) -> None:
    from frazil_engine import publish_local

    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / folder.name).touch()
    assert publish_local.exchange(str(first), str(second)) is True
    assert [path.name for path in first.iterdir()] == ["second"]


@pytest.mark.smoke
def test_a_publishing_that_may_be_tried_again_keeps_what_was_staged(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frazil_engine import destinations, outcomes
    from frazil_engine.destinations import Staging
    from frazil_engine.errors import Failure
    from frazil_engine.protocol import read_runs
    from frazil_engine.sinks import write_result

    message = run_message(results, destination=str(tmp_path / "d" / "out"), format="parquet")
    [run] = read_runs({**message, "plan": {"kind": "dsl", "bytes": [0]}}, b"")
    staging = Staging(run, run.tasks[0])
    written = write_result(NEW.lazy(), staging.target, "parquet", {}, "streaming", 0)
    staged = outcomes.Staged(run.tasks[0], staging, staging.seal(written, []), written, [])

    def fail(code: str) -> Any:
        def publish(*_arguments: Any) -> str:
            raise Failure(code, "not now")

        with monkeypatch.context() as patch:
            patch.setattr(destinations, "publish", publish)
            return outcomes.settle(staged, "publish", set(), {}).message

    assert fail("storage_failed")["retryable"] is True
    location = destinations.publish(staged.manifest, {})
    assert_frame_equal(pl.read_parquet(location), NEW)


def lay_staged(folder: Path) -> dict[str, Any]:
    """An output that is to replace old data, as a manifest names it."""
    lay_old(folder / "out")
    staged = folder / publish_local.STAGING_NAME / "job" / "task-1" / "data" / "part-0.parquet"
    staged.parent.mkdir(parents=True)
    NEW.write_parquet(staged)
    names = {"staging": str(staged.parent.parent), "staged": str(staged), "final": str(folder / "out")}
    return {"mode": "overwrite", "shape": "directory", **names, "file_id": publish_local.seal(str(staged))}


def test_two_that_publish_the_same_output_do_it_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale attempt that thaws beside its successor: two exchanges of the directories would put the old data back."""
    manifest = publish_local.LocalManifest(**lay_staged(tmp_path))
    moving, second_done = threading.Event(), threading.Event()
    move, moves = publish_local.move, []

    def move_late(late: publish_local.LocalManifest) -> None:
        moves.append(late)
        moving.set()
        # With a lock the second one can't get that far.
        second_done.wait(0.5)
        move(late)

    monkeypatch.setattr(publish_local, "move", move_late)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(publish_local.publish, manifest)
        moving.wait()
        second = pool.submit(publish_local.publish, manifest)
        second.add_done_callback(lambda _: second_done.set())
        final = str(tmp_path / "out" / "part-0.parquet")
        assert [first.result(), second.result()] == [final, final]
    assert len(moves) == 1
    assert tree(tmp_path) == ["out/part-0.parquet"]
    assert_frame_equal(pl.read_parquet(tmp_path / "out"), NEW)


def test_a_publisher_that_is_frozen_is_waited_for_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = publish_local.LocalManifest(**lay_staged(tmp_path))
    monkeypatch.setattr(publish_lock, "PUBLISH_LOCK_SECONDS_MAX", 0.1)
    with publish_lock.publishing_alone(manifest.staging):
        with pytest.raises(Failure, match="does not end") as raised:
            publish_local.publish(manifest)
        assert raised.value.retryable
    assert publish_local.publish(manifest) == str(tmp_path / "out" / "part-0.parquet")
