"""Listening sockets: opened, taken over from systemd, and removed again."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from postroom.config import SocketAddress
from postroom.server import WorkerKind

BACKLOG = 1024  # connections that wait while all workers are busy; the kernel bounds it by net.core.somaxconn
UNIX_MODE = 0o660
UNIX_MODE_FOR_EVERYBODY = 0o666
DIRECTORY_MODE = 0o750
DIRECTORY_MODE_FOR_EVERYBODY = 0o755
MAX_UNIX_PATH = 107  # octets of sun_path less the final NUL, unix(7)
FIRST_PASSED = 3  # SD_LISTEN_FDS_START


class SocketError(Exception):
    """Which socket cannot be opened, why, and the remedy, in one line."""


class SocketTaken(SocketError):
    """Somebody listens there."""


@dataclass
class Listener:
    """One listening socket. `identity` is the device and inode of a unix socket that we made.

    A socket that systemd passed is `borrowed`: connections wait in it for whoever serves it next.
    """

    address: SocketAddress
    socket: socket.socket
    identity: tuple[int, int] | None = None
    borrowed: bool = False

    @property
    def actual(self) -> str:
        """Where it really listens: with port 0 the kernel chose."""
        if self.address.family == "unix":
            return str(self.address)
        host, port, *_ = self.socket.getsockname()
        return str(SocketAddress(self.address.family, host=host, port=port))

    def close(self) -> None:
        """Stop listening, in every process that has the socket; a unix socket's name goes, if it is still ours.

        A worker that is still accepting gets EINVAL.
        """
        if self.identity:
            try:
                found = os.lstat(self.address.path)
                if (found.st_dev, found.st_ino) == self.identity:
                    Path(self.address.path).unlink()
            except OSError:
                pass  # somebody else's now, or the directory is no longer ours to write
        if not self.borrowed:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def open_listener(address: SocketAddress, *, group: int = -1, for_everybody: bool = False) -> Listener:
    """Listen there. `group` (a gid) gets a unix socket, `for_everybody` opens it to all users of this host."""
    try:
        if address.family == "unix":
            return _open_unix(address, group, for_everybody)
        return _open_inet(address)
    except OSError as error:
        problem = f"cannot listen on {address}: {error.strerror or error}"
        if isinstance(error, _Busy) or error.errno == errno.EADDRINUSE:
            remedy = "is postroom running already? Stop what listens there, or change `listen`"
            raise SocketTaken(f"{problem}; {remedy}") from None
        raise SocketError(f"{problem}; change `listen`, or let postroom do it") from None


class _Busy(OSError):
    """Somebody listens on that unix socket."""


def _open_inet(address: SocketAddress) -> Listener:
    family = socket.AF_INET6 if address.family == "inet6" else socket.AF_INET
    found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(found[0][4])
        return Listener(address, _listen(opened))
    except BaseException:
        opened.close()
        raise


def _listen(opened: socket.socket) -> socket.socket:
    opened.listen(BACKLOG)
    opened.setblocking(False)  # a worker that lost the race for a connection must not wait in accept()
    return opened


def _open_unix(address: SocketAddress, group: int, for_everybody: bool) -> Listener:
    path = Path(address.path)
    if len(os.fsencode(path)) + 12 > MAX_UNIX_PATH:  # the temporary name is that much longer
        raise OSError(0, f"the path is too long, {MAX_UNIX_PATH - 12} octets are possible")
    make_directory(path.parent, group=group, for_everybody=for_everybody)
    _check_unused(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.bind(str(beside))
        beside.chmod(UNIX_MODE_FOR_EVERYBODY if for_everybody else UNIX_MODE)
        if group != -1:
            os.chown(beside, -1, group)
        _listen(opened)
        beside.rename(path)  # takes the place of a stale one at once: nobody ever finds no socket
    except BaseException:
        opened.close()
        beside.unlink(missing_ok=True)
        raise
    found = path.lstat()
    return Listener(address, opened, (found.st_dev, found.st_ino))


def _check_unused(path: Path) -> None:
    """OSError unless the path is free, or a socket on which nobody listens any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "there is a file of that name that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
        raise _Busy(0, "somebody listens there")


def make_directory(path: Path, *, owner: int = -1, group: int = -1, for_everybody: bool = False) -> None:
    """Make it with its parents, closed to the world by default, when it is not there.

    What is there stays as it is, unless systemd has just made it for us: root's, as it does not know `[server] user`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        if not _made_by_systemd(path):
            return
    if for_everybody:
        path.chmod(DIRECTORY_MODE_FOR_EVERYBODY)  # whatever the umask
    if (owner, group) != (-1, -1):
        os.chown(path, owner, group)


def _made_by_systemd(path: Path) -> bool:
    """RuntimeDirectory= and StateDirectory= of our own unit; systemd.exec(5)."""
    names = ("RUNTIME_DIRECTORY", "STATE_DIRECTORY")
    return any(path == Path(each) for name in names for each in os.environ.get(name, "").split(":") if each)


# Socket activation, sd_listen_fds(3)


def passed_sockets() -> list[tuple[str, socket.socket]]:
    """The listening sockets that systemd passed to this process, with their names; taken once."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    passed = []
    for offset in range(int(count)):
        descriptor = FIRST_PASSED + offset
        os.set_inheritable(descriptor, False)
        name = names[offset] if offset < len(names) else ""
        try:
            taken = socket.socket(fileno=descriptor)
            listens = taken.type == socket.SOCK_STREAM and taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SocketError(f"descriptor {descriptor} from systemd is no socket: {error.strerror}") from None
        if not listens:
            raise SocketError(f"descriptor {descriptor} ({name}) from systemd: use ListenStream= and Accept=no")
        taken.setblocking(False)
        passed.append((name, taken))
    return passed


def address_of(listening: socket.socket) -> SocketAddress:
    name = listening.getsockname()
    match listening.family:
        case socket.AF_UNIX:
            return SocketAddress("unix", path=name)
        case socket.AF_INET6:
            return SocketAddress("inet6", host=name[0], port=name[1])
        case _:
            return SocketAddress("inet", host=name[0], port=name[1])


def assign_passed(
    passed: Iterable[tuple[str, socket.socket]], configured: Mapping[WorkerKind, Iterable[SocketAddress]]
) -> dict[WorkerKind, list[Listener]]:
    """Which worker serves which of systemd's sockets: by FileDescriptorName= `milter` or `lmtp`, else by address."""
    assigned: dict[WorkerKind, list[Listener]] = {}
    for name, listening in passed:
        address = address_of(listening)
        kinds = [kind for kind in WorkerKind if name == kind] or [
            kind for kind, addresses in configured.items() if address in addresses
        ]
        if not kinds:
            raise SocketError(
                f"socket {address} ({name}) from systemd is for nobody:"
                f" write FileDescriptorName={', '.join(WorkerKind)}"
            )
        assigned.setdefault(kinds[0], []).append(Listener(address, listening, borrowed=True))
    return assigned
