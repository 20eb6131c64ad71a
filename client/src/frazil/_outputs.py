"""Where results go: destinations, formats, and the keyword arguments of Polars' own sinks."""

from __future__ import annotations

import inspect
import json
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import polars as pl

from frazil._wire import Format, Job, Mode
from frazil.errors import UnsupportedArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE_URL = re.compile(r"file:(?://([^/]*)|(?=/))")
_EXTENSIONS: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "ipc",
    ".ipc": "ipc",
    ".feather": "ipc",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}

# Arguments of sinks that mean something else here, or nothing.
_OWN = frozenset({"self", "path", "storage_options"})
_REFUSED = {
    "lazy": "the query runs remotely at once; there is no lazy sink",
    "optimizations": "a plan travels unoptimised, and the engine optimises it with Polars' defaults",
    "credential_provider": "a Python function can't travel; give storage_options=, or rely on the machine's own",
    "engine": "give engine= to .remote()",
    "sinked_paths_callback": "a Python function can't travel; the result's .locations lists the files",
    "arrow_schema": "an Arrow schema object can't travel",
    "encryption": "encryption keys can't travel",
    "field_overwrites": "such objects can't travel",
    "use_pyarrow": "the engine writes with Polars itself",
    "pyarrow_options": "the engine writes with Polars itself",
    "partition_by": "use .partition_by(...) on the remote frame",
    "partition_chunk_size_bytes": "use .partition_by(...) on the remote frame",
    "sync_on_close": "it is None, 'data' or 'all'; every file is synced before its result counts",
    "check_extension": "it is True or False; the destination's name is taken as it is",
}
# Values that ask for nothing beyond what happens anyway.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "lazy": (False,),
    "credential_provider": ("auto", None),
    "engine": ("auto",),
    "sinked_paths_callback": (None,),
    "arrow_schema": (None,),
    "encryption": (None,),
    "field_overwrites": (None,),
    "use_pyarrow": (False,),
    "pyarrow_options": (None,),
    "partition_by": (None,),
    "mkdir": (True, False),  # Directories are made as needed.
    "sync_on_close": (None, "data", "all"),  # Files are always synced.
    "check_extension": (True, False),  # No engine looks at the extension of a compressed file.
}


@dataclass(frozen=True)
class Sink:
    """A checked output, ready to travel. Storage options may hold secrets and do not show in the repr."""

    format: Format
    destination: str | None = None
    mode: Mode = "error"
    options: dict[str, Any] = field(default_factory=dict)
    storage_options: dict[str, str] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "storage_options": {}}  # A pickle may go anywhere.

    def payload(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "destination": self.destination,
            "mode": self.mode,
            "options": self.options,
            "storageOptions": self.storage_options,
        }


def recorded_sink(job: Job) -> Sink:
    """What the server recorded of a job's output: enough to read it, without the secrets that it was written with."""
    output = job["output"]
    return Sink(output["format"], output["destination"], output["mode"], output["options"])


def make_sink(
    format: Format,
    destination: str | Path | None,
    mode: Mode,
    storage_options: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Sink:
    """Checks what was given, and makes a local destination absolute on this machine."""
    if format not in get_args(Format):
        raise UnsupportedArgument(f"unknown format {format!r}: one of {', '.join(get_args(Format))}")
    if mode not in get_args(Mode):
        raise UnsupportedArgument(f"unknown mode {mode!r}: one of {', '.join(get_args(Mode))}")
    return Sink(format, destination_text(destination), mode, _checked_options(format, options), _texts(storage_options))


def destination_text(destination: str | Path | None) -> str | None:
    if destination is None:
        return None
    if not isinstance(destination, (str, os.PathLike)):
        raise UnsupportedArgument(
            f"a destination is a path or URL, not {type(destination).__name__}",
            hint="to partition the output by a key, use .partition_by(...) on the remote frame",
        )
    text = os.fspath(destination)
    is_file_url = _FILE_URL.match(text) is not None
    if is_file_url:
        text = _path_of_file_url(text)
    if not text:
        raise UnsupportedArgument(
            "the destination is empty", hint="leave it out to keep the result at the results location"
        )
    if not is_file_url and _URL.match(text):
        return text
    absolute = os.path.abspath(os.path.expanduser(text))
    # A "/" at the end asks for a directory, whatever its name ends in.
    return os.path.join(absolute, "") if text.endswith("/") else absolute


def _path_of_file_url(text: str) -> str:
    """The path of a file URL. By hand, because # and ? are parts of a file's name here, as in Polars."""
    from urllib.parse import unquote

    prefix = _FILE_URL.match(text)
    assert prefix is not None
    if prefix[1] not in (None, "", "localhost"):
        raise UnsupportedArgument(
            f"{text} names a machine, {prefix[1]}: files are those of this machine",
            hint="a path behind file:// begins with /, as in file:///data/x.parquet",
        )
    return unquote(text[prefix.end() :])


def format_of(destination: str | Path | None, default: Format) -> Format:
    """The format that a destination's extension names, else the default."""
    suffix = Path(os.fspath(destination)).suffix.lower() if destination is not None else ""
    return _EXTENSIONS.get(suffix, default)


def _checked_options(format: Format, options: Mapping[str, Any]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    known = _known_options(format)
    for name, value in options.items():
        if _asks_for_nothing(name, value):
            continue
        if name in _REFUSED:
            raise UnsupportedArgument(f"{name}= can't be used here: {_REFUSED[name]}")
        if name not in known:
            raise UnsupportedArgument(f"sink_{format}() of Polars {pl.__version__} has no argument {name!r}")
        if isinstance(value, pl.CompatLevel):
            value = value._version  # As a number it travels.
        if callable(value):
            raise UnsupportedArgument(f"{name}=: a Python function can't travel to another machine")
        try:
            checked[name] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            raise UnsupportedArgument(f"{name}=: {type(value).__name__} can't travel to another machine") from None
    return checked


def _asks_for_nothing(name: str, value: Any) -> bool:
    if name == "optimizations":
        return str(value) == str(pl.QueryOptFlags())  # Flags tell their values, but don't compare.
    return any(value is neutral or value == neutral for neutral in _NEUTRAL.get(name, ()))


@lru_cache(maxsize=8)
def _known_options(format: Format) -> frozenset[str]:
    return frozenset(inspect.signature(getattr(pl.LazyFrame, f"sink_{format}")).parameters) - _OWN


def _texts(storage_options: Mapping[str, Any] | None) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in (storage_options or {}).items():
        if isinstance(value, bool):
            texts[name] = "true" if value else "false"
        elif isinstance(value, (str, int, float)):
            texts[name] = str(value)
        elif value is not None:
            raise UnsupportedArgument(
                f"storage_options[{name!r}]: expected text or a number, not {type(value).__name__}"
            )
    return texts


class Dst:
    """A destination with its format and write options, for `spawn` and `spawn_many`."""

    _format: Format

    def __init__(
        self,
        uri: str | Path | None = None,
        *,
        mode: Mode = "error",
        storage_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.sink = make_sink(self._format, uri, mode, storage_options, options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.sink.destination!r}, mode={self.sink.mode!r})"


class ParquetDst(Dst):
    """Parquet at a path or URL (None: the workspace's results location), with the options of `LazyFrame.sink_parquet`.

    Examples
    --------
    >>> pc.spawn(lf, dst=pc.ParquetDst("s3://dst/", compression="snappy", mode="overwrite"))
    """

    _format = "parquet"


class CsvDst(Dst):
    """CSV at a path or URL (None: the workspace's results location), with the options of `LazyFrame.sink_csv`."""

    _format = "csv"


class IpcDst(Dst):
    """Arrow IPC at a path or URL (None: the workspace's results location), with the options of `LazyFrame.sink_ipc`."""

    _format = "ipc"


class NdjsonDst(Dst):
    """NDJSON at a path or URL (None: the workspace's results location), with the options of `LazyFrame.sink_ndjson`."""

    _format = "ndjson"


def resolve_sink(
    dst: str | Path | Dst | None,
    sink: Format | None,
    mode: Mode,
    storage_options: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Sink:
    """The sink of `spawn`'s arguments: a `Dst` as it is; else the format asked for, or the extension's, or parquet."""
    if isinstance(dst, Dst):
        if sink is not None or mode != "error" or storage_options or options:
            raise UnsupportedArgument(
                f"give sink, mode, storage_options and write options to {type(dst).__name__}(...), not beside it"
            )
        return dst.sink
    default: Format = "ipc" if dst is None else "parquet"
    return make_sink(sink or format_of(dst, default), dst, mode, storage_options, options)
