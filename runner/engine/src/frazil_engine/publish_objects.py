"""Publishing in an object store: a staged object is copied to its place by the store itself.

One object appears at once. A partition that is overwritten is not atomic as a whole: its new object replaces the old
one of the same name first, then the other objects of the partition are deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, NotFoundError, PreconditionError

from frazil_engine.errors import Failure
from frazil_engine.limits import REPLACED_ENTRIES_MAX
from frazil_engine.publish_local import DATA_NAME, PARTITION_NAME, STAGING_NAME, not_empty

# The largest object that a store copies in one request.
COPY_BYTES_MAX = 5 * 1024**3
# The prefix of a destination that is a whole bucket: an empty one says that the destination is one object.
WHOLE_BUCKET = "/"
TRANSFERRED_CHUNK_BYTES = 8 * 1024**2


@dataclass(frozen=True)
class ObjectManifest:
    """Keys of a staged object and of its place. `prefix` is the partition's, empty for a destination that is one
    object, and "/" for one that is a whole bucket.
    """

    mode: str
    root: str
    prefix: str
    staged: str
    final: str
    bytes: int

    def encode(self) -> dict[str, object]:
        return {"store": "objects", **asdict(self)}


def job_staging(job_id: str) -> str:
    """The prefix of everything that a job has staged in a bucket."""
    return f"{STAGING_NAME}/{job_id}"


def staging_key(job_id: str, task_id: str, attempt: int, name: str) -> str:
    return f"{job_staging(job_id)}/{task_id}-{attempt}/{name}"


def discard_earlier(store: Any, job_id: str, task_id: str, attempt: int) -> None:
    """Removes what earlier attempts at the task left staged. That this one runs means that none of them was fenced."""
    for earlier in range(1, attempt):
        # Whether that works is no matter of this attempt's: what stays is removed when the job has ended.
        with contextlib.suppress(Exception):
            delete_below(store, staging_key(job_id, task_id, earlier, ""))


def delete_below(store: Any, prefix: str) -> None:
    keys = list(list_keys(store, prefix))
    if keys:
        obstore.delete(store, keys)


def check_destination(store: Any, root: str, prefix: str, key: str, mode: str) -> None:
    """Refuses early what publishing would refuse."""
    if prefix == WHOLE_BUCKET and mode == "overwrite":
        raise Failure(
            "storage_refused",
            f'{root}/ is a whole bucket; mode="overwrite" would delete all that is in it.',
            hint='Write to a prefix in it, or pass mode="append" to add to the bucket.',
        )
    if mode == "error" and holds_data(store, prefix, key, ours=None):
        raise not_empty_at(root, prefix, key)
    if mode == "append" and not prefix and exists(store, key):
        raise Failure(
            "unprocessable",
            f"{root}/{key} is one object, to which nothing can be appended.",
            hint="Append to a prefix instead: end it in /.",
        )
    if mode == "overwrite" and prefix:
        list_replaced(store, root, prefix)


def holds_data(store: Any, prefix: str, key: str, ours: str | None) -> bool:
    """Whether an object other than `ours` stands at the key or below the prefix."""
    if not prefix:
        return key != ours and exists(store, key)
    return any(found != ours for found in list_keys(store, prefix))


def exists(store: Any, key: str) -> bool:
    try:
        obstore.head(store, key)
    except (FileNotFoundError, NotFoundError):
        return False
    return True


def not_empty_at(root: str, prefix: str, key: str) -> Failure:
    if prefix != WHOLE_BUCKET:
        return not_empty(f"{root}/{prefix or key}")
    return Failure(
        "destination_not_empty",
        f"{root}/ already holds data.",
        hint='Pass mode="append" to add to it, or write to a prefix in it.',
    )


def folder_of(prefix: str) -> str:
    """What every key below the prefix begins with: nothing, when it is a whole bucket."""
    return "" if prefix == WHOLE_BUCKET else prefix.rstrip("/") + "/"


def list_keys(store: Any, prefix: str) -> Iterator[str]:
    """The keys below a prefix. What jobs have staged is no data of a bucket's."""
    folder = folder_of(prefix)
    for page in obstore.list(store, prefix=folder or None):
        for found in page:
            if folder or not found["path"].startswith(f"{STAGING_NAME}/"):
                yield found["path"]


def list_replaced(store: Any, root: str, prefix: str) -> list[str]:
    """The objects that mode "overwrite" replaces. Raises Failure when they don't look like written data."""
    keys = []
    for key in list_keys(store, prefix):
        *folders, name = key[len(folder_of(prefix)) :].split("/")
        if (
            not DATA_NAME.search(name)
            or not all(PARTITION_NAME.search(folder) for folder in folders)
            or len(keys) >= REPLACED_ENTRIES_MAX
        ):
            raise Failure(
                "storage_refused",
                f'{root}/{key} is nothing that a query wrote; mode="overwrite" would delete all of {root}/{prefix}.',
                hint="Write to a prefix of its own, or empty it first.",
            )
        keys.append(key)
    return keys


def publish(store: Any, manifest: ObjectManifest) -> str:
    """Makes the staged object visible and deletes it. Gives the object's URL. Safe to call again after any
    interruption.
    """
    location = f"{manifest.root}/{manifest.final}"
    if not exists(store, manifest.staged):
        if size_of(store, manifest.final) != manifest.bytes:
            raise Failure(
                "storage_failed",
                f"What was staged for {location} is gone, and other data stands there.",
                retryable=False,
            )
        # It goes last of all: what stands beside the object now has come later, and is another job's.
        return location
    copy(store, manifest)
    if manifest.mode == "overwrite" and manifest.prefix:
        others = [key for key in list_replaced(store, manifest.root, manifest.prefix) if key != manifest.final]
        # Copying takes long: looked at again, so that what came after another engine has finished this is kept.
        if others and exists(store, manifest.staged):
            obstore.delete(store, others)
    remove(store, manifest.staged)
    return location


def copy(store: Any, manifest: ObjectManifest) -> None:
    if manifest.mode != "error":
        copy_over(store, manifest)
        return
    if holds_data(store, manifest.prefix, manifest.final, ours=manifest.final):
        raise not_empty_at(manifest.root, manifest.prefix, manifest.final)
    if manifest.bytes > COPY_BYTES_MAX:
        if exists(store, manifest.final):
            require_same(store, manifest)
        else:
            copy_over(store, manifest)
        return
    try:
        obstore.copy(store, manifest.staged, manifest.final, overwrite=False)
    except (AlreadyExistsError, PreconditionError):
        require_same(store, manifest)


def copy_over(store: Any, manifest: ObjectManifest) -> None:
    if manifest.bytes <= COPY_BYTES_MAX:
        obstore.copy(store, manifest.staged, manifest.final, overwrite=True)
        return
    # Larger than stores copy in one request: it goes through this machine, in parts.
    # Only closing makes the object: one that is left half-written never appears.
    writer = obstore.open_writer(store, manifest.final)
    for start in range(0, manifest.bytes, TRANSFERRED_CHUNK_BYTES):
        end = min(start + TRANSFERRED_CHUNK_BYTES, manifest.bytes)
        writer.write(obstore.get_range(store, manifest.staged, start=start, end=end))
    writer.close()


def require_same(store: Any, manifest: ObjectManifest) -> None:
    """An object at the place is ours when an earlier call has copied it there."""
    if size_of(store, manifest.final) != manifest.bytes or not same_content(store, manifest):
        raise not_empty_at(manifest.root, manifest.prefix, manifest.final)


def same_content(store: Any, manifest: ObjectManifest) -> bool:
    for start in range(0, manifest.bytes, TRANSFERRED_CHUNK_BYTES):
        end = min(start + TRANSFERRED_CHUNK_BYTES, manifest.bytes)
        ours, theirs = (
            obstore.get_range(store, key, start=start, end=end) for key in (manifest.staged, manifest.final)
        )
        if bytes(ours) != bytes(theirs):
            return False
    return True


def size_of(store: Any, key: str) -> int | None:
    try:
        return obstore.head(store, key)["size"]
    except (FileNotFoundError, NotFoundError):
        return None


def remove(store: Any, key: str) -> None:
    try:
        obstore.delete(store, key)
    except (FileNotFoundError, NotFoundError):
        return
