"""Postfix' queue, by its own tools: postqueue lists, postcat shows, postsuper acts."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator
from typing import Any

from postroom.mta.postfix_tool import Postfix, PostfixFailed, complaint, find_tool
from postroom.mta.queue import QueueAction, QueuedMail, QueuedRecipient, QueueFilter

QUEUES = ("incoming", "active", "deferred", "hold", "maildrop", "corrupt")

_FLAGS = {
    QueueAction.HOLD: "-h",
    QueueAction.RELEASE: "-H",
    QueueAction.REQUEUE: "-r",
    QueueAction.DELETE: "-d",
}
_DONE = re.compile(r"^postsuper: (?:Deleted|Requeued|Placed on hold|Released from hold): (\d+) message", re.MULTILINE)
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{5,40}")


class PostfixQueue:
    """The queue of one instance."""

    def __init__(self, postfix: Postfix) -> None:
        self._postfix = postfix

    def mails(self) -> Generator[QueuedMail, None, None]:
        """All mails as they are read: a long queue is never in memory."""
        with self._start("postqueue", "-j") as listing:
            assert listing.stdout is not None
            for line in listing.stdout:
                yield read_mail(json.loads(line))
            _, error = listing.communicate()
        if listing.returncode:
            raise PostfixFailed(complaint(error) or "postqueue failed")

    def show(self, id_: str, *, body: bool) -> Iterator[bytes]:
        """A mail as it is in the queue, or its header alone; PostfixFailed when it is not there."""
        _check_id(id_)
        command = self._command("postcat", "-qhb" if body else "-qh", id_)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as postcat:
            assert postcat.stdout is not None
            assert postcat.stderr is not None
            empty = True
            while chunk := postcat.stdout.read(1 << 16):
                empty = False
                yield chunk
            error = postcat.stderr.read().decode("utf-8", "replace")
        if postcat.returncode:
            raise PostfixFailed(f"{id_} is not in the queue" if "No such file" in error else complaint(error))
        if empty and error:  # it only warns of what it cannot read
            raise PostfixFailed(f"{id_} is damaged: {complaint(error)}; `postsuper -d {id_}` takes it away")

    def check(self, action: QueueAction, chosen: QueueFilter) -> None:
        """Postfix can do all of that, to any mail."""

    def ready(self, action: QueueAction) -> None:
        """And at any time."""

    def act(self, action: QueueAction, mails: Collection[QueuedMail]) -> int:
        """Do it to those that are still where they were listed; how many that were."""
        if action is QueueAction.FLUSH:
            for mail in mails:
                self._postfix.run("postqueue", "-i", mail.id)
            return len(mails)
        by_queue: dict[str, list[str]] = defaultdict(list)
        for mail in mails:
            by_queue[mail.queue].append(_check_id(mail.id))
        # naming the queue: a short id may by now belong to another mail, elsewhere
        return sum(self._postsuper(_FLAGS[action], queue, ids) for queue, ids in by_queue.items())

    def flush_all(self) -> None:
        self._postfix.run("postqueue", "-f")

    def _postsuper(self, flag: str, queue: str, ids: Collection[str]) -> int:
        with self._start("postsuper", flag, "-", queue, writes=True) as process:
            _, error = process.communicate("".join(f"{each}\n" for each in ids))
        if process.returncode:
            raise PostfixFailed(complaint(error) or f"postsuper {flag} failed with status {process.returncode}")
        return sum(int(count) for count in _DONE.findall(error))

    def _start(self, tool: str, *arguments: str, writes: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(tool, *arguments),
            stdin=subprocess.PIPE if writes else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )

    def _command(self, tool: str, *arguments: str) -> list[str]:
        return [find_tool(tool), "-c", str(self._postfix.directory), *arguments]


def read_mail(raw: dict[str, Any]) -> QueuedMail:
    """A mail from a line of `postqueue -j`."""
    sender = raw["sender"]
    return QueuedMail(
        raw["queue_id"],
        raw["queue_name"],
        float(raw["arrival_time"]),
        int(raw["message_size"]),
        "" if sender == "MAILER-DAEMON" else sender,
        tuple(QueuedRecipient(each["address"], each.get("delay_reason", "")) for each in raw["recipients"]),
    )


def _check_id(id_: str) -> str:
    """Nothing that a tool would take for an option, or for all mails."""
    if not _QUEUE_ID.fullmatch(id_) or id_ == "ALL":
        raise PostfixFailed(f"{id_!r} is no queue id", 2)
    return id_
