"""Object stores through obstore, with the same storage options that Polars takes."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import obstore
import polars as pl
from obstore.exceptions import NotFoundError, UnknownConfigurationKeyError
from obstore.store import from_url

from frazil_engine.places import ObjectPlace

# Options of the HTTP client, which obstore takes apart from those of the store.
CLIENT_OPTIONS = {
    "allow_http", "allow_invalid_certificates", "connect_timeout", "default_content_type", "http1_only",
    "http2_keep_alive_interval", "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_max_frame_size",
    "http2_only", "pool_idle_timeout", "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
    "randomize_addresses", "read_timeout", "timeout", "user_agent",
}  # fmt: skip
# Options that only Polars knows. Release 1.37 takes them as texts only, 1.44 as numbers only.
POLARS_OPTIONS = {
    **dict.fromkeys(("file_cache_ttl", "max_retries"), int),
    **dict.fromkeys(("retry_timeout_ms", "retry_init_backoff_ms", "retry_max_backoff_ms"), int),
    **dict.fromkeys(("rate_read_init", "rate_read_floor", "rate_read_ceiling"), int),
    **dict.fromkeys(("rate_write_init", "rate_write_floor", "rate_write_ceiling"), int),
    "retry_base_multiplier": float,
}
COPY_OPTIONS = {"copy_if_not_exists", "aws_copy_if_not_exists"}


def for_polars(storage_options: dict[str, str]) -> dict[str, Any] | None:
    """Storage options as Polars takes them: they travel as texts. What is no number stays, so that Polars names it."""
    options: dict[str, Any] = dict(storage_options)
    for name in POLARS_OPTIONS.keys() & options.keys():
        if takes_numbers():
            with contextlib.suppress(ValueError):
                options[name] = POLARS_OPTIONS[name](options[name])
    return options or None


@functools.cache
def takes_numbers() -> bool:
    """Whether this Polars takes numbers among storage options. It looks at them before it looks for the file."""
    try:
        pl.scan_parquet("s3://bucket/key", storage_options={"max_retries": 1}, credential_provider=None)
    except TypeError:
        return False
    return True


def open_store(root: str, storage_options: dict[str, str]) -> Any:
    """The store of a bucket's URL. Options that are none of its own are left out, as Polars does."""
    config: dict[str, Any] = {}
    client: dict[str, Any] = {}
    for name, value in storage_options.items():
        lower = name.lower()
        plain = lower.removeprefix("aws_").removeprefix("google_").removeprefix("azure_")
        if plain in CLIENT_OPTIONS:
            client[plain] = value
        elif lower not in POLARS_OPTIONS:
            config[lower] = value
    if root.startswith("s3") and COPY_OPTIONS.isdisjoint(config):
        config["copy_if_not_exists"] = "multipart"
    try:
        return make_store(root, config, client)
    except UnknownConfigurationKeyError:
        known = {name: value for name, value in config.items() if is_known(root, name)}
        return make_store(root, known, client)


def make_store(root: str, config: dict[str, Any], client: dict[str, Any]) -> Any:
    options: dict[str, Any] = {"config": config or None, "client_options": client or None}
    return from_url(root, **options)


def is_known(root: str, name: str) -> bool:
    """Whether a store of this kind has the option. Only its name matters: what else fails says that it has."""
    try:
        make_store(root, {name: ""}, {})
    except Exception as error:
        return not isinstance(error, UnknownConfigurationKeyError)
    return True


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
