"""Object stores through obstore, with the same storage options that Polars takes."""

from __future__ import annotations

import contextlib
from typing import Any

import obstore
from obstore.exceptions import NotFoundError
from obstore.store import from_url

from frazil_engine.places import ObjectPlace

# Options of the HTTP client, which obstore takes apart from those of the store.
CLIENT_OPTIONS = {
    "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "http1_only", "http2_only",
    "pool_idle_timeout", "pool_max_idle_per_host", "proxy_url", "timeout", "user_agent",
}  # fmt: skip
# Options that only Polars knows.
POLARS_OPTIONS = {
    "file_cache_ttl",
    "max_retries",
    "retry_timeout_ms",
    "retry_init_backoff_ms",
    "retry_max_backoff_ms",
    "retry_base_multiplier",
}


def open_store(root: str, storage_options: dict[str, str]) -> Any:
    """The store of a bucket's URL."""
    config: dict[str, Any] = {}
    client: dict[str, Any] = {}
    for name, value in storage_options.items():
        lower = name.lower()
        plain = lower.removeprefix("aws_").removeprefix("google_").removeprefix("azure_")
        if plain in CLIENT_OPTIONS:
            client[plain] = value
        elif lower not in POLARS_OPTIONS:
            config[lower] = value
    if root.startswith("s3"):
        config.setdefault("copy_if_not_exists", "multipart")
    options: dict[str, Any] = {"config": config or None, "client_options": client or None}
    return from_url(root, **options)


def open_writer(place: ObjectPlace, storage_options: dict[str, str]) -> Any:
    """A writable file; the object is there once the file was closed."""
    return obstore.open_writer(open_store(place.root, storage_options), place.key)


def size_of(place: ObjectPlace, storage_options: dict[str, str]) -> int:
    return obstore.head(open_store(place.root, storage_options), place.key)["size"]


def write(place: ObjectPlace, data: bytes) -> None:
    """Writes one object of the workspace's own, with the node's credentials."""
    obstore.put(open_store(place.root, {}), place.key, data)


def exists(place: ObjectPlace) -> bool:
    try:
        obstore.head(open_store(place.root, {}), place.key)
    except (FileNotFoundError, NotFoundError):
        return False
    return True


def list_keys(folder: ObjectPlace) -> list[str]:
    pages = obstore.list(open_store(folder.root, {}), prefix=folder.key.rstrip("/") + "/")
    return [found["path"] for page in pages for found in page]


def delete(place: ObjectPlace) -> None:
    """Deletes an object. Some stores say so when it is not there; others don't."""
    with contextlib.suppress(FileNotFoundError, NotFoundError):
        obstore.delete(open_store(place.root, {}), place.key)


def delete_below(folder: ObjectPlace) -> None:
    keys = list_keys(folder)
    if keys:
        obstore.delete(open_store(folder.root, {}), keys)
