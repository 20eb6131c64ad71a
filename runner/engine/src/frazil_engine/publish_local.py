"""Publishing on a local file system: what lies staged becomes visible at once or not at all, and finishing it twice
does no harm.

Every step can be the last one of a process. `publish` begins by looking which file stands at the destination, so
that a second call goes on from wherever the first one stopped.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import shutil
from dataclasses import asdict, dataclass
from typing import Any

from frazil_engine.errors import Failure
from frazil_engine.limits import REPLACED_ENTRIES_MAX
from frazil_engine.publish_lock import publishing_alone
from frazil_engine.sinks import EXTENSIONS

STAGING_NAME = ".frazil-staging"
MAKE_TRIES_MAX = 10
AT_FDCWD = -100
RENAME_EXCHANGE = 2
# What may stand in a directory that mode "overwrite" replaces: data files, partitions, and the hidden or underscored
# files that writers leave.
DATA_NAME = re.compile(
    rf"(^[._])|(\.({'|'.join(EXTENSIONS.values())}|ipc|feather|jsonl|json|pq)(\.(gz|zst))?$)", re.IGNORECASE
)
PARTITION_NAME = re.compile(r"^[^=/]+=")


@dataclass(frozen=True)
class LocalManifest:
    """Where a staged file lies and where it goes. `file_id` tells the file again after it was moved."""

    mode: str
    # A destination that is one file, or a directory that holds the file.
    shape: str
    staging: str
    staged: str
    final: str
    file_id: list[str]

    def encode(self) -> dict[str, object]:
        return {"store": "local", **asdict(self)}


def job_staging(root: str, job_id: str) -> str:
    """The parent of the staging directories of a job's attempts: beside the destination's root, so that it is on the
    same file system and no scan of the destination sees it. Raises Failure (storage_refused) where that can't be.
    """
    if os.path.ismount(root):
        raise Failure(
            "storage_refused",
            f"{root} is the root of a file system, so that nothing can be staged beside it.",
            hint="Write to a directory below it.",
        )
    return os.path.join(os.path.dirname(root), STAGING_NAME, job_id)


def staging_folder(root: str, job_id: str, task_id: str, attempt: int) -> str:
    return os.path.join(job_staging(root, job_id), f"{task_id}-{attempt}")


def folder_beside(staging: str) -> str:
    """The directory that holds the destination, in which the staging directories stand."""
    while os.path.basename(staging) != STAGING_NAME and staging != os.sep:
        staging = os.path.dirname(staging)
    return os.path.dirname(staging)


def check_destination(path: str, shape: str, mode: str) -> None:
    """Refuses early what publishing would refuse. Raises Failure (destination_not_empty, storage_refused,
    unprocessable).
    """
    if shape == "file" and os.path.isdir(path):
        raise Failure(
            "storage_refused", f"{path} is a directory.", hint="End the destination in / to write into a directory."
        )
    check_parents(path if shape == "directory" else os.path.dirname(path))
    if shape == "file" and mode == "append" and os.path.lexists(path):
        raise Failure(
            "unprocessable",
            f"{path} is one file, to which nothing can be appended.",
            hint="Append to a directory instead.",
        )
    if mode == "error" and (os.path.lexists(path) if shape == "file" else has_entries(path)):
        raise not_empty(path)
    if mode == "overwrite" and shape == "directory":
        check_replaceable(path)


def check_parents(folder: str) -> None:
    """Refuses a directory that can't be made because a file stands at its name, or at that of one above it."""
    while not os.path.lexists(folder) and folder != os.sep:
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise Failure(
            "storage_refused", f"{folder} is a file, not a directory.", hint="Write elsewhere, or move the file away."
        )


def not_empty(path: str) -> Failure:
    return Failure(
        "destination_not_empty",
        f"{path} already holds data.",
        hint='Pass mode="overwrite" to replace it, or mode="append" to add to it.',
    )


def has_entries(path: str) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False


def check_replaceable(path: str) -> None:
    """Mode "overwrite" replaces a directory with all that is in it, and only one that looks like written data."""
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        for count, entry in enumerate(entries):
            known = PARTITION_NAME if entry.is_dir(follow_symlinks=False) else DATA_NAME
            if not known.search(entry.name) or count >= REPLACED_ENTRIES_MAX:
                raise Failure(
                    "storage_refused",
                    f'{path} holds "{entry.name}", which no query wrote; mode="overwrite" would delete all of {path}.',
                    hint="Write to a directory of its own, or empty it first.",
                )


def make_staging(path: str) -> None:
    """Makes the directory. Its parent may be removed by another task that has just finished, hence the tries."""
    for _ in range(MAKE_TRIES_MAX):
        try:
            os.makedirs(path, exist_ok=True)
            return
        except FileNotFoundError:
            continue
        except PermissionError:
            raise Failure(
                "storage_refused",
                f"{folder_beside(path)} can't be written to.",
                hint="Outputs are staged in the directory above the destination, which must allow it.",
            ) from None
    raise Failure("storage_refused", f"{path} can't be made.")


def seal(staged: str) -> list[str]:
    """Makes a staged file durable, and gives what identifies it."""
    sync(staged)
    sync(os.path.dirname(staged))
    return identify(staged)


def identify(path: str) -> list[str]:
    """What stays the same when a file is moved within its file system, as text: the numbers are too long for JSON's
    readers.
    """
    found = os.stat(path, follow_symlinks=False)
    return [str(part) for part in (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)]


def is_file(path: str, file_id: list[str]) -> bool:
    try:
        return identify(path) == file_id
    except (FileNotFoundError, NotADirectoryError):
        return False


def final_file(manifest: LocalManifest) -> str:
    """Where the staged file stands after publishing."""
    return (
        manifest.final if manifest.shape == "file" else os.path.join(manifest.final, os.path.basename(manifest.staged))
    )


def publish(manifest: LocalManifest) -> str:
    """Makes the staged file visible and removes the staging directory. Gives the file's place. Safe to call again after
    any interruption, and beside another call: two exchanges at once would put the old data back.
    """
    with publishing_alone(manifest.staging):
        return publish_alone(manifest)


def publish_alone(manifest: LocalManifest) -> str:
    final = final_file(manifest)
    if not is_file(final, manifest.file_id):
        if not is_file(manifest.staged, manifest.file_id):
            raise Failure(
                "storage_failed",
                f"What was staged for {manifest.final} is gone, and other data stands there.",
                retryable=False,
            )
        make_parents(manifest.final)
        move(manifest)
    sync_names(final, folder_beside(manifest.staging))
    remove_staging(manifest.staging)
    return final


def move(manifest: LocalManifest) -> None:
    staged_folder = os.path.dirname(manifest.staged)
    if manifest.shape == "file" and manifest.mode == "overwrite":
        os.replace(manifest.staged, manifest.final)
    elif manifest.shape == "file":
        link_new(manifest.staged, manifest.final)
    elif manifest.mode == "append":
        os.makedirs(manifest.final, exist_ok=True)
        os.replace(manifest.staged, final_file(manifest))
    elif manifest.mode == "error":
        rename_to_empty(staged_folder, manifest.final)
    else:
        replace_folder(staged_folder, manifest.final, os.path.join(manifest.staging, "old"))


def link_new(staged: str, final: str) -> None:
    """Gives the file a second name, which fails when the name is taken."""
    try:
        os.link(staged, final)
    except FileExistsError:
        raise not_empty(final) from None


def rename_to_empty(staged: str, final: str) -> None:
    """A directory can only be renamed to a name that is free, or that of an empty directory."""
    try:
        os.rename(staged, final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise not_empty(final) from None
        raise


def replace_folder(staged: str, final: str, old: str) -> None:
    """Puts one directory in the place of another. The old one stays in the staging directory, and goes with it."""
    try:
        os.rename(staged, final)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    check_replaceable(final)
    if exchange(staged, final):
        return
    # Without an atomic exchange there is a moment in which nothing stands at the destination.
    os.rename(final, old)
    os.rename(staged, final)


@functools.cache
def find_renameat2() -> Any:
    """The system call, where the C library has it; else None."""
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None


def exchange(first: str, second: str) -> bool:
    """Swaps two names at once; False where the system or file system can't."""
    renameat2 = find_renameat2()
    if renameat2 is None:
        return False
    if renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), second)


def make_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)


def sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_names(final: str, base: str) -> None:
    """Makes durable every name between the file and the directory that holds the destination."""
    folder = os.path.dirname(final)
    sync(folder)
    while folder not in (base, os.sep):
        folder = os.path.dirname(folder)
        sync(folder)


def remove_staging(staging: str) -> None:
    """Removes one attempt's staging directory, and those above it as far as they are of ours and empty."""
    shutil.rmtree(staging, ignore_errors=True)
    remove_empty_parents(staging)


def remove_empty_parents(staging: str) -> None:
    folder = staging
    while os.path.basename(folder) != STAGING_NAME and folder != os.sep:
        folder = os.path.dirname(folder)
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                raise
            return


def discard_earlier(root: str, job_id: str, task_id: str, attempt: int) -> None:
    """Removes what earlier attempts at the task left staged. That this one runs means that none of them was fenced."""
    for earlier in range(1, attempt):
        shutil.rmtree(staging_folder(root, job_id, task_id, earlier), ignore_errors=True)
