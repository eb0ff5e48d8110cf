"""Tells systemd how we are (sd_notify(3)); without systemd it says nothing."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Takes $NOTIFY_SOCKET and $WATCHDOG_USEC out of the environment, so that no program of a handler speaks for us."""

    def __init__(self) -> None:
        self._path = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", "0"), os.environ.pop("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog = int(microseconds) / 2e6 if self._path and ours and microseconds.isdigit() else 0.0
        """Seconds between two signs of life, half of what systemd waits; 0: it does not watch."""

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=finishing the mails in hand")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path  # an abstract socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.settimeout(1)
                notify.sendto(state.encode(), address)
        except OSError:
            pass  # whoever watches us is gone; mail goes on
