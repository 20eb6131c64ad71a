"""Where a task's output goes: stages it outside the destination, and publishes or abandons it when told to."""

from __future__ import annotations

import base64
import json
import os
import zlib
from typing import Any

from frazil_engine import hive, objects, publish_local, publish_objects
from frazil_engine.errors import Failure
from frazil_engine.limits import MANIFEST_BYTES_MAX
from frazil_engine.places import ObjectPlace, Place, local_target, object_target, parse_place
from frazil_engine.protocol import Output, Run, Task
from frazil_engine.publish_local import LocalManifest
from frazil_engine.publish_objects import ObjectManifest
from frazil_engine.sinks import EXTENSIONS, Target, Written, read_written

FILE_SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv",),
    "ipc": (".arrow", ".ipc", ".feather"),
    "ndjson": (".ndjson", ".jsonl"),
}


class Staging:
    """One attempt's output before it is published."""

    def __init__(self, run: Run, task: Task) -> None:
        assert run.output.destination is not None
        self._output: Output = run.output
        self._job_id = run.job_id
        self._head_bytes_max = run.head_bytes_max
        self._task = task
        place = parse_place(run.output.destination, run.cwd)
        self._shape = find_shape(run.output.destination, place, run.output.format)
        if self._shape == "file" and (task.frame is not None or task.key_path is not None):
            raise Failure(
                "unprocessable",
                f"{run.output.destination} names one file, but this job writes one per frame or key.",
                hint="Name a directory: end the destination in /.",
            )
        part = task.task_id if run.output.mode == "append" else "0"
        name = f"part-{part}.{EXTENSIONS[run.output.format]}"
        partition = [] if task.frame is None else [f"frame={task.frame}"]
        partition += [] if task.key_path is None else task.key_path.split("/")
        hive.check_partition(partition)
        if isinstance(place, ObjectPlace):
            self.target = self._stage_object(place, partition, name)
        else:
            self.target = self._stage_file(place, partition, name)

    def _stage_object(self, place: ObjectPlace, partition: list[str], name: str) -> Target:
        options = self._output.storage_options
        self._store = objects.open_store(place.root, options)
        directory = place.below(*partition)
        self._prefix = (directory.key or publish_objects.WHOLE_BUCKET) if self._shape == "directory" else ""
        self._final = directory.below(name).key if self._shape == "directory" else place.key
        publish_objects.check_destination(self._store, place.root, self._prefix, place.key, self._output.mode)
        attempt = (self._job_id, self._task.task_id, self._task.attempt)
        publish_objects.discard_earlier(self._store, *attempt)
        self._staged = publish_objects.staging_key(*attempt, name)
        self._root = place.root
        return object_target(ObjectPlace(place.root, self._staged), options)

    def _stage_file(self, place: Place, partition: list[str], name: str) -> Target:
        root = os.path.realpath(str(place))
        self._final = os.path.join(root, *partition)
        attempt = (self._job_id, self._task.task_id, self._task.attempt)
        self._staging = publish_local.staging_folder(root, *attempt)
        publish_local.discard_earlier(root, *attempt)
        publish_local.check_destination(self._final, self._shape, self._output.mode)
        folder = os.path.join(self._staging, "data")
        publish_local.make_staging(folder)
        self._store = None
        self._staged = os.path.join(folder, name if self._shape == "directory" else os.path.basename(root))
        return local_target(self._staged)

    def seal(self, written: Written, warnings: list[dict[str, str]]) -> dict[str, Any]:
        """The manifest: all that another engine needs to finish the publishing."""
        where: LocalManifest | ObjectManifest
        if self._store is None:
            file_id = publish_local.seal(self._staged)
            where = LocalManifest(self._output.mode, self._shape, self._staging, self._staged, self._final, file_id)
        else:
            where = ObjectManifest(
                self._output.mode, self._root, self._prefix, self._staged, self._final, written.bytes
            )
        return encode_manifest(where, self._output.format, self._head_bytes_max, written, warnings)

    def abandon(self) -> None:
        """Removes what was staged."""
        if self._store is None:
            publish_local.remove_staging(self._staging)
        else:
            publish_objects.remove(self._store, self._staged)


def find_shape(destination: str, place: Place, format: str) -> str:
    """A name with the format's extension is a file, anything else a directory; so is a bucket, whatever its name."""
    if isinstance(place, ObjectPlace) and not place.key:
        return "directory"
    return "file" if destination.lower().endswith(FILE_SUFFIXES[format]) else "directory"


def encode_manifest(
    where: LocalManifest | ObjectManifest,
    format: str,
    head_bytes_max: int,
    written: Written,
    warnings: list[dict[str, str]],
) -> dict[str, Any]:
    """The manifest within its limit. The schema and the warnings of a very wide result give way, in this order:
    compressed, then left out.
    """
    manifest: dict[str, Any] = {
        **where.encode(),
        "format": format,
        "headBytesMax": head_bytes_max,
        "rows": written.rows,
        "size": written.bytes,
    }
    for details in ({"schema": written.schema, "warnings": warnings}, {"schema": written.schema, "warnings": []}):
        packed = base64.b64encode(zlib.compress(json.dumps(details).encode())).decode("ascii")
        if len(json.dumps({**manifest, "details": packed})) <= MANIFEST_BYTES_MAX:
            return {**manifest, "details": packed}
    if len(json.dumps(manifest)) > MANIFEST_BYTES_MAX:
        raise Failure(
            "limit_exceeded", f"The destination's path is too long for a manifest of {MANIFEST_BYTES_MAX:,} bytes."
        )
    return {**manifest, "details": None}


def publish(manifest: dict[str, Any], storage_options: dict[str, str]) -> str:
    """Makes visible what a manifest names, from the manifest alone. Gives the location. Idempotent."""
    where = decode_manifest(manifest)
    if isinstance(where, LocalManifest):
        return publish_local.publish(where)
    return publish_objects.publish(objects.open_store(where.root, storage_options), where)


def decode_manifest(manifest: dict[str, Any]) -> LocalManifest | ObjectManifest:
    kinds: dict[str, type[LocalManifest] | type[ObjectManifest]] = {"local": LocalManifest, "objects": ObjectManifest}
    kind = kinds.get(str(manifest.get("store")))
    if kind is None or not set(kind.__dataclass_fields__) <= set(manifest):
        raise Failure("invalid_request", "This is not a manifest of a staged output.")
    return kind(**{name: manifest[name] for name in kind.__dataclass_fields__})


def describe_published(
    manifest: dict[str, Any], location: str, storage_options: dict[str, str]
) -> tuple[Written, list[dict[str, str]]]:
    """What a published output holds, for an engine that has not written it. A text file tells no types, so that it
    comes without a head.
    """
    details = {"schema": [], "warnings": []}
    if manifest.get("details") is not None:
        details = json.loads(zlib.decompress(base64.b64decode(manifest["details"])))
    schema = [(name, dtype) for name, dtype in details["schema"]]
    head = b""
    if manifest["format"] in ("parquet", "ipc"):
        place = parse_place(location, None)
        target = object_target(place, storage_options) if isinstance(place, ObjectPlace) else local_target(place)
        found = read_written(target, manifest["format"], manifest["headBytesMax"])
        schema, head = found.schema, found.head
    return Written(schema, manifest["rows"], manifest["size"], head), details["warnings"]
