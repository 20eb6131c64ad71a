"""Local paths and object store URLs, and how a file or object at one is written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from frazil_engine.errors import Failure
from frazil_engine.sinks import Target

OBJECT_SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss")
URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://([^/]*)/?(.*)$", re.DOTALL)


@dataclass(frozen=True)
class ObjectPlace:
    """A key (or a prefix) in a bucket. `root` is the bucket's URL without a slash at its end."""

    root: str
    key: str

    @property
    def url(self) -> str:
        return f"{self.root}/{self.key}"

    def below(self, *names: str) -> ObjectPlace:
        return ObjectPlace(self.root, "/".join([part for part in (self.key.rstrip("/"), *names) if part]))


Place = str | ObjectPlace


def parse_place(text: str, cwd: str | None) -> Place:
    """An absolute local path, or a place in an object store. Raises Failure (not_available) for other schemes."""
    match = URL.match(text)
    if match is None:
        return os.path.normpath(os.path.join(cwd or os.getcwd(), os.path.expanduser(text)))
    scheme, bucket, key = match.groups()
    if scheme.lower() == "file":
        return os.path.normpath("/" + unquote(key))
    if scheme.lower() not in OBJECT_SCHEMES:
        raise Failure(
            "not_available",
            f"Results can't be written to {scheme}:// addresses.",
            hint=f"Use a path, or an address of one of the kinds {', '.join(OBJECT_SCHEMES)}.",
        )
    return ObjectPlace(f"{scheme}://{bucket}", key)


def local_target(path: str) -> Target:
    return Target(path, None, lambda: open(path, "wb"), lambda: os.stat(path).st_size)


def object_target(place: ObjectPlace, storage_options: dict[str, str]) -> Target:
    from frazil_engine import objects

    def open_file() -> Any:
        return objects.open_writer(place, storage_options)

    return Target(
        place.url, objects.for_polars(storage_options), open_file, lambda: objects.size_of(place, storage_options)
    )
