"""Compute contexts: what travels, and clusters that are started by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from fake_server import FakeServer, hang_up, respond

import frazil as pc
import frazil.context
from frazil._client import Client

LF = pl.LazyFrame({"a": [1]})


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (pc.ComputeContext(), None),
        (pc.ComputeContext(cpus=16, memory=64), {"cpus": 16, "memoryGiB": 64}),
        (pc.ComputeContext(cpus=1), {"cpus": 1, "memoryGiB": 4, "cloud": "local"}),
        (pc.ComputeContext(memory=0.5), {"cpus": 2, "memoryGiB": 0.5, "cloud": "local"}),
        (pc.ComputeContext(cluster_size=3), {"cpus": 2, "memoryGiB": 4, "cloud": "local", "clusterSize": 3}),
        (
            pc.ComputeContext(
                cpus=1,
                memory=1,
                idle_timeout=timedelta(minutes=2),
                packages=["numpy>=2"],
                env={"KEY": "hush"},
                cloud="local",
            ),
            {
                "cpus": 1,
                "memoryGiB": 1,
                "idleTimeoutSeconds": 120,
                "packages": ["numpy>=2"],
                "env": {"KEY": "hush"},
                "cloud": "local",
            },
        ),
    ],
)
def test_what_is_not_said_comes_from_the_workspace(
    server: FakeServer, context: pc.ComputeContext, expected: dict[str, Any] | None
) -> None:
    LF.remote(context).collect()
    assert server.submitted()[0].spec.get("context") == expected


def test_a_whole_shape_asks_for_no_default(server: FakeServer) -> None:
    LF.remote(pc.ComputeContext(cpus=1, memory=1)).collect()
    assert server.paths() == ["POST /v1/jobs"]


def test_what_the_installation_does_not_offer_is_its_own_refusal(server: FakeServer) -> None:
    with pytest.raises(pc.NotAvailable, match="without GPUs"):
        LF.remote(pc.ComputeContext(cpus=1, memory=1, gpus=1)).collect()
    with pytest.raises(pc.NotAvailable, match="local cloud only"):
        pc.ComputeContext(cpus=1, memory=1, cloud="aws").start()


@pytest.mark.parametrize("arguments", [{"cpus": 1.5}, {"cpus": True}, {"cluster_size": "2"}, {"packages": "numpy"}])
def test_wrong_shapes_are_refused_at_once(arguments: dict[str, Any]) -> None:
    with pytest.raises(pc.UnsupportedArgument, match=next(iter(arguments))):
        pc.ComputeContext(**arguments)


def test_a_started_context_pins_its_cluster_until_it_is_stopped(server: FakeServer) -> None:
    context = pc.ComputeContext(cpus=2, memory=4, name="mine", packages=["numpy"])
    assert context.id is None
    assert context.status is None
    assert context.start() is context
    assert context.id is not None
    assert context.status == "ready"
    LF.remote(context).collect()
    spec = server.submitted()[0].spec
    assert spec["clusterId"] == context.id
    assert spec["context"]["packages"] == ["numpy"]
    (cluster,) = server.clusters.values()
    assert cluster["name"] == "mine"
    context.stop()
    assert cluster["status"] == "terminated"
    assert context.id is None
    LF.remote(context).collect()
    assert "clusterId" not in server.submitted()[1].spec
    context.stop()


def test_starting_twice_is_one_cluster(server: FakeServer) -> None:
    context = pc.ComputeContext(cpus=1, memory=1).start(wait=False)
    context.start()
    assert len(server.clusters) == 1


def test_a_context_without_a_shape_starts_the_default(server: FakeServer) -> None:
    pc.ComputeContext().start()
    (cluster,) = server.clusters.values()
    assert cluster["shape"] == {"cloud": "local", "cpus": 2, "memoryGiB": 4, "gpus": 0, "clusterSize": 1}


def test_as_a_context_manager_it_starts_and_stops(server: FakeServer) -> None:
    def fail() -> None:
        with pc.ComputeContext(cpus=1, memory=1) as context:
            assert context.status == "ready"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [cluster["status"] for cluster in server.clusters.values()] == ["terminated"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, pc.ServerUnreachable])
def test_what_interrupts_its_start_stops_it_too(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise error("now")

    monkeypatch.setattr(Client, "wait_cluster", interrupted)
    with pytest.raises(error), pc.ComputeContext(cpus=1, memory=1):
        pass
    assert [cluster["status"] for cluster in server.clusters.values()] == ["terminated"]


def test_a_stop_that_failed_can_be_repeated(server: FakeServer) -> None:
    context = pc.ComputeContext(cpus=1, memory=1).start()
    cluster = context.id
    server.faults.append(respond(500, {"code": "internal", "detail": "out of order"}))
    with pytest.raises(pc.FrazilError, match="out of order"):
        context.stop()
    assert context.id == cluster
    context.stop()
    assert context.id is None
    assert [one["status"] for one in server.clusters.values()] == ["terminated"]


def test_a_cluster_that_fails_to_start_says_why(server: FakeServer) -> None:
    server.cluster_status = "terminated"
    context = pc.ComputeContext(cpus=1, memory=1)
    with pytest.raises(pc.Unavailable, match="no machines of this size are left") as raised:
        context.start()
    assert raised.value.code == "capacity"
    assert context.id is None


def test_waiting_for_a_cluster_can_be_limited(server: FakeServer) -> None:
    server.cluster_status = "starting"
    context = pc.ComputeContext(cpus=1, memory=1)
    with pytest.raises(pc.AwaitTimeout, match="goes on starting"):
        context.start(timeout=0.2)
    assert context.id is not None


def test_a_start_has_all_of_its_time_though_the_server_is_away_in_between(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frazil.context, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(frazil.context, "LATE_SECONDS_MAX", 0.0)
    context = pc.ComputeContext(cpus=1, memory=1).start(wait=False)
    server.faults += [hang_up] * 4
    assert context.start(timeout=60).status == "ready"


def test_clusters_are_listed_and_connected_to(server: FakeServer) -> None:
    one = pc.ComputeContext(cpus=1, memory=1, idle_timeout=30).start()
    two = pc.ComputeContext(cpus=2, memory=2, cluster_size=2).start()
    two_id = two.id
    two.stop()
    assert [context.id for context in pc.ComputeContext.list()] == [two_id, one.id]
    (ready,) = pc.ComputeContext.list("ready")
    assert (ready.id, ready.cpus, ready.memory, ready.idle_timeout) == (one.id, 1, 1, 30)
    assert one.id is not None
    again = pc.ComputeContext.connect(one.id)
    LF.remote(again).collect()
    assert server.submitted()[0].spec["clusterId"] == one.id
    with pytest.raises(pc.NotFound):
        pc.ComputeContext.connect("cl_nope")


def test_a_default_context_of_this_process(server: FakeServer) -> None:
    pc.set_compute_context(pc.ComputeContext(cpus=3, memory=3))
    LF.remote().collect()
    pc.spawn_many_blocking([LF])
    LF.remote(pc.ComputeContext(cpus=4, memory=4)).collect()
    pc.set_compute_context(None)
    LF.remote().collect()
    contexts = [job.spec.get("context", {}).get("cpus") for job in server.submitted()]
    assert contexts == [3, 3, 4, None]
    with pytest.raises(pc.UnsupportedArgument):
        pc.set_compute_context("big")  # type: ignore[arg-type]


def test_the_repr_shows_what_was_asked_for(server: FakeServer) -> None:
    context = pc.ComputeContext(cpus=2, memory=4, packages=["numpy"])
    assert repr(context) == "ComputeContext(cpus=2, memory=4, packages=['numpy'])"
    context.start()
    assert repr(context).endswith(f" started as {context.id}")


def test_secrets_do_not_show() -> None:
    assert "hush" not in repr(pc.ComputeContext(env={"TOKEN": "hush"}))
    assert "hush" not in repr(LF.remote(pc.ComputeContext(env={"TOKEN": "hush"})))
