"""A private Redis: alone, with a password, as a one-node cluster, or watched by a Sentinel."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Self

from postroom.config import SocketAddress
from postroom.testing.ports import LOOPBACK, free_port, free_ports
from postroom.testing.processes import Child, need_program, temporary_directory, wait_until

CLUSTER_SLOTS = 16384


class RedisInstance:
    """A running Redis on loopback, for a with statement; it keeps nothing on disk.

    `cluster`: it serves all slots of a cluster of one. `arguments`: more options of redis-server, `--name value`.
    """

    def __init__(self, *, password: str = "", cluster: bool = False, arguments: tuple[str, ...] = ()) -> None:
        self.password = password
        self.cluster = cluster
        self.arguments = arguments
        self.port = 0

    @property
    def address(self) -> SocketAddress:
        return SocketAddress("inet", LOOPBACK, self.port)

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._child.pid

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("redis-server")
            self.base = stack.enter_context(temporary_directory("redis"))
            self.port = self.port or free_port()
            arguments = [program, "--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.base)]
            arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.arguments]
            if self.password:
                arguments += ["--requirepass", self.password, "--masterauth", self.password]
            if self.cluster:
                arguments += ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
            self._child = Child(arguments, self.base / "redis.log")
            stack.callback(self._child.stop)
            self._child.wait_ready(self.address)
            if self.cluster:
                self.command("CLUSTER", "ADDSLOTSRANGE", "0", str(CLUSTER_SLOTS - 1))
                wait_until(lambda: "cluster_state:ok" in self.command("CLUSTER", "INFO"), "the cluster is whole")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        """End it as a crash would; `start_again` brings it back, empty, on the same port."""
        self._child.process.kill()
        self._child.process.wait()

    def start_again(self) -> None:
        self._stack.close()
        self.__enter__()

    def command(self, *words: str) -> str:
        """One command on a connection of its own; the answer as Redis wrote it."""
        with socket.create_connection((LOOPBACK, self.port), timeout=10) as connection:
            if self.password:
                connection.sendall(_packed("AUTH", self.password))
                connection.recv(100)
            connection.sendall(_packed(*words))
            return connection.recv(1 << 16).decode()


class SentinelInstance:
    """A Sentinel that watches one Redis under the name `service`."""

    def __init__(self, redis: RedisInstance, service: str = "postroom") -> None:
        self.redis = redis
        self.service = service

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            program = need_program("redis-server")
            base = stack.enter_context(temporary_directory("sentinel"))
            (self.port,) = free_ports(1)
            lines = [
                f"port {self.port}",
                f"bind {LOOPBACK}",
                f"dir {base}",
                f"sentinel monitor {self.service} {LOOPBACK} {self.redis.port} 1",
                f"sentinel down-after-milliseconds {self.service} 1000",
            ]
            if self.redis.password:
                lines.append(f"sentinel auth-pass {self.service} {self.redis.password}")
            (base / "sentinel.conf").write_text("\n".join([*lines, ""]))
            child = Child([program, str(base / "sentinel.conf"), "--sentinel"], base / "sentinel.log")
            stack.callback(child.stop)
            child.wait_ready(SocketAddress("inet", LOOPBACK, self.port))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _packed(*words: str) -> bytes:
    """A command in Redis' own form, so that no client library has a say in what a test server is asked."""
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word.encode())}\r\n{word}\r\n".encode() for word in words)
