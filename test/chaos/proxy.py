"""A proxy in front of several control planes, as a load balancer would be: each connection goes to one that answers."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading

CHUNK_BYTES = 65_536
CONNECT_SECONDS = 1.0


class Proxy:
    """Listens on a port of its own, and takes turns among the backends."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turn = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        backend = self._connect()
        if backend is None:
            client.close()
            return
        threading.Thread(target=pump, args=(backend, client), daemon=True).start()
        pump(client, backend)

    def _connect(self) -> socket.socket | None:
        first = next(self._turn)
        for offset in range(len(self._ports)):
            port = self._ports[(first + offset) % len(self._ports)]
            try:
                backend = socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS)
            except OSError:
                continue
            backend.settimeout(None)
            return backend
        return None

    def close(self) -> None:
        self._listener.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copies until one side ends, then ends both: a half-open connection helps nobody here."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(CHUNK_BYTES):
            target.sendall(chunk)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
