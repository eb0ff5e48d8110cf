"""Asks Dovecot how full a mailbox is: its policy service, or doveadm. Each answer in a bounded time."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass

from postroom.config import SocketAddress

MAX_ANSWER = 65536
_KIB = 1024


class SourceFailed(Exception):
    """The source gave no usable answer: the handler has failed, and on_error decides."""


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """Whether there is room, and the policy server's own words when there is none."""

    fits: bool
    text: str = ""


def ask_policy(address: SocketAddress, sender: str, recipient: str, size: int, timeout: float) -> PolicyAnswer:
    """One request of Postfix' policy delegation protocol, as check_policy_service makes it at RCPT."""
    lines = ["request=smtpd_access_policy", "protocol_state=RCPT", "protocol_name=ESMTP"]
    lines += [f"sender={_clean(sender)}", f"recipient={_clean(recipient)}", f"size={size}"]
    request = ("\n".join(lines) + "\n\n").encode("utf-8", "surrogateescape")
    ends_at = time.monotonic() + timeout
    try:
        with _connect(address, timeout) as connection:
            connection.sendall(request)
            received = b""
            while not received.endswith((b"\n\n", b"\n\r\n")) and len(received) < MAX_ANSWER:
                connection.settimeout(max(0.01, ends_at - time.monotonic()))
                chunk = connection.recv(4096)
                if not chunk:
                    break
                received += chunk
    except OSError as error:
        raise SourceFailed(f"{address}: {error.strerror or error}") from None
    if b"\n\n" not in received.replace(b"\r\n", b"\n"):
        raise SourceFailed(f"{address}: no whole answer")
    for line in received.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition("=")
        if name == "action" and value.strip():
            return parse_action(value.strip())
    raise SourceFailed(f"{address}: no action in its answer")


def parse_action(action: str) -> PolicyAnswer:
    """access(5): a reply code, REJECT or DEFER refuses; the rest lets the mail pass.

    Dovecot says DEFER_IF_PERMIT when it fails: what is temporary says that a mailbox is full only by its code.
    """
    word, _, text = action.partition(" ")
    is_code = len(word) == 3 and word.isdecimal()
    if word.upper() in ("DEFER", "DEFER_IF_PERMIT", "DEFER_IF_REJECT") or (is_code and word[0] == "4"):
        if "4.2.2" not in text:
            raise SourceFailed(f"the policy server has a problem of its own: {action[:200]}")
        return PolicyAnswer(False, text)
    if word.upper() == "REJECT" or (is_code and word[0] == "5"):
        return PolicyAnswer(False, text)
    return PolicyAnswer(True)


def ask_doveadm(command: tuple[str, ...], user: str, timeout: float) -> tuple[int, int | None]:
    """(octets used, limit or None) from `doveadm quota get`."""
    argv = [*command, "-f", "tab", "quota", "get", "-u", user]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"{command[0]}: no answer within {timeout:g} s") from None
    except OSError as error:
        raise SourceFailed(f"{command[0]}: {error.strerror or error}") from None
    if done.returncode != 0:
        words = " ".join(done.stderr[:MAX_ANSWER].decode("utf-8", "replace").split())[:200]
        raise SourceFailed(f"{command[0]}: exit status {done.returncode}: {words}")
    return parse_doveadm(done.stdout[:MAX_ANSWER].decode("utf-8", "replace"))


def parse_doveadm(output: str) -> tuple[int, int | None]:
    """Columns by their names; values are in KiB, `-` is no limit."""
    header, *rows = [line.split("\t") for line in output.splitlines() if line.strip()] or [[]]
    columns = {name.strip().lower(): position for position, name in enumerate(header)}
    try:
        for row in rows:
            if row[columns["type"]] == "STORAGE":
                used, text = int(row[columns["value"]]), row[columns["limit"]]
                limit = 0 if text == "-" else int(text)
                return max(0, used) * _KIB, limit * _KIB if limit > 0 else None
    except (KeyError, IndexError, ValueError):
        pass
    raise SourceFailed("doveadm quota get: no STORAGE line in its output; is Dovecot's quota plugin on?")


def _connect(address: SocketAddress, timeout: float) -> socket.socket:
    if address.family == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(address.path)
        except BaseException:
            connection.close()
            raise
        return connection
    return socket.create_connection((address.host, address.port), timeout=timeout)


def _clean(text: str) -> str:
    """No address ends its line."""
    return "".join("?" if ord(each) < 32 or ord(each) == 127 else each for each in text)
