"""The process: one thread reads messages, the main thread runs them."""

from __future__ import annotations

import contextlib
import os
import platform
import queue
import sys
import threading
from typing import NoReturn

import polars as pl

from frazil_engine import logs, protocol, runs
from frazil_engine.protocol import Channel, ProtocolFault, Republish, Run, Sweep
from frazil_engine.restoring import look_around
from frazil_engine.session import Decision, Session

READ_FD = 3
WRITE_FD = 4
EXIT_OF_FAULT = 2

Work = list[Run] | Republish | Sweep


def main() -> None:
    """Serves runs until `exit` or the end of the pipe: either ends the process at once, whatever it is doing."""
    channel = Channel(READ_FD, WRITE_FD)
    captured = logs.capture(channel)
    home = os.getcwd()
    session = Session(channel, captured, home, look_around(home))
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=read_messages, args=(session, work), name="frazil-reader", daemon=True).start()
    channel.send({"type": "ready", "python": platform.python_version(), "polars": pl.__version__, "pid": os.getpid()})
    while True:
        item = work.get()
        if isinstance(item, list):
            runs.serve_runs(session, item)
        elif isinstance(item, Republish):
            runs.serve_republish(session, item)
        else:
            runs.serve_sweep(session, item)
        del item
        channel.send({"type": "idle"})


def read_messages(session: Session, work: queue.SimpleQueue[Work]) -> None:
    try:
        while (received := session.channel.receive()) is not None:
            message, body = received
            kind = message["type"]
            if kind == "run":
                runs_of_message = protocol.read_runs(message, body)
                session.await_turns(runs_of_message)
                work.put(runs_of_message)
                del runs_of_message
            elif kind == "republish":
                work.put(protocol.read_republish(message))
            elif kind == "sweep":
                work.put(protocol.read_sweep(message))
            elif kind in ("publish", "abandon"):
                session.decide(Decision(protocol.take(message, "taskId", str), kind))
            elif kind == "exit":
                break
            else:
                raise ProtocolFault(f'The engine knows no message "{kind[:100]}".')
            del received, message, body
    except ProtocolFault as fault:
        end_with(str(fault))
    except BaseException as error:
        # A reader that has died would leave the process deaf: end it, so that the agent starts another.
        end_with(f"{type(error).__name__} in the reader of messages")
    sys.stdout.flush()
    os._exit(0)


def end_with(fault: str) -> NoReturn:
    # User code may have closed it.
    with contextlib.suppress(OSError):
        os.write(2, f"frazil_engine: {fault}\n".encode())
    os._exit(EXIT_OF_FAULT)
