"""Run Polars queries on machines in your own cloud account.

Importing this package makes ``LazyFrame.remote`` Frazil's:

>>> import polars as pl, frazil as pc
>>> query = pl.scan_parquet("s3://my-dataset/").group_by("a").agg(pl.mean("b"))
>>> in_progress = query.remote(pc.ComputeContext(cpus=16, memory=64)).write_parquet("s3://my-dst/")
>>> result = in_progress.await_result()
>>> result.lazy()
"""

from frazil import errors
from frazil._client import login
from frazil._jobs import job, jobs
from frazil._logs import LogLine
from frazil._outputs import CsvDst, IpcDst, NdjsonDst, ParquetDst
from frazil._patch import install as _install
from frazil._patch import remote
from frazil._remote import LazyFrameRemote, PartitionedRemote
from frazil._spawn import (
    spawn,
    spawn_async,
    spawn_blocking,
    spawn_many,
    spawn_many_async,
    spawn_many_blocking,
)
from frazil._version import __version__
from frazil.context import ComputeContext, set_compute_context
from frazil.errors import (
    AwaitTimeout,
    ClusterFailed,
    Conflict,
    FailureGroup,
    FrazilError,
    InvalidRequest,
    LimitExceeded,
    NotAvailable,
    NotConfigured,
    NotFound,
    OutOfMemory,
    QueriesFailed,
    QueryCancelled,
    QueryFailed,
    QueryTimedOut,
    RemoteError,
    ServerError,
    ServerUnreachable,
    Unauthenticated,
    Unavailable,
    UnsupportedArgument,
    UnsupportedVersion,
)
from frazil.handles import InProgressQueriesRemote, InProgressQueryRemote, JobProgress
from frazil.results import ManyResult, QueryResult

__all__ = [
    "AwaitTimeout",
    "ClusterFailed",
    "ComputeContext",
    "Conflict",
    "CsvDst",
    "FailureGroup",
    "FrazilError",
    "InProgressQueriesRemote",
    "InProgressQueryRemote",
    "InvalidRequest",
    "IpcDst",
    "JobProgress",
    "LazyFrameRemote",
    "LimitExceeded",
    "LogLine",
    "ManyResult",
    "NdjsonDst",
    "NotAvailable",
    "NotConfigured",
    "NotFound",
    "OutOfMemory",
    "ParquetDst",
    "PartitionedRemote",
    "QueriesFailed",
    "QueryCancelled",
    "QueryFailed",
    "QueryResult",
    "QueryTimedOut",
    "RemoteError",
    "ServerError",
    "ServerUnreachable",
    "Unauthenticated",
    "Unavailable",
    "UnsupportedArgument",
    "UnsupportedVersion",
    "__version__",
    "errors",
    "job",
    "jobs",
    "login",
    "remote",
    "set_compute_context",
    "spawn",
    "spawn_async",
    "spawn_blocking",
    "spawn_many",
    "spawn_many_async",
    "spawn_many_blocking",
]

_install()
