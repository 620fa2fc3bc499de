"""Real sockets that behave badly."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Gate:
    """A TCP forwarder to a server on this machine that can be shut, and can lose an answer.

    Attributes:
        port: where it listens.
        is_open: while false, connections are closed as soon as they are accepted.
        lose_answers_to: requests that hold these bytes reach the server, and their answers do not come back.
    """

    def __init__(self, target: int) -> None:
        self.is_open = True
        self.lose_answers_to: bytes | None = None
        self.num_lost = 0
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def shut(self) -> None:
        self.is_open = False
        for connection in list(self._sockets):
            _close(connection)

    def close(self) -> None:
        self.shut()
        _close(self._server)
        for thread in self._threads:
            thread.join(timeout=60)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if not self.is_open:
                client.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self._target))
            self._sockets |= {client, upstream}
            losing = threading.Event()
            self._start(self._copy, client, upstream, losing, True)
            self._start(self._copy, upstream, client, losing, False)

    def _copy(self, source: socket.socket, sink: socket.socket, losing: threading.Event, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_request and self.lose_answers_to and self.lose_answers_to in data:
                    losing.set()
                    self.num_lost += 1
                if losing.is_set() and not is_request:
                    break
                sink.sendall(data)
        _close(source)
        _close(sink)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
