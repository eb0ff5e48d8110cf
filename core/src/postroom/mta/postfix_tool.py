"""One instance of Postfix, spoken to through its own tools: postconf, postfix, postmulti."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from postroom.mta.postfix_maincf import BLANKS, Entry, read_entries, split_lines

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60.0
"""Seconds for one of Postfix' tools."""
MACRO_ERROR = "macro processing error"


class PostfixFailed(Exception):
    """What one of Postfix' tools says, or what is missing, in one line with the remedy."""

    def __init__(self, text: str, exit_status: int = 1) -> None:
        super().__init__(text)
        self.exit_status = exit_status


def find_tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    if found is None:
        raise PostfixFailed(f"{name} is not installed: install Postfix, or leave this command alone on this host")
    return found


class Postfix:
    """The instance whose main.cf is in `directory`; none: the default one."""

    def __init__(self, directory: Path | None = None) -> None:
        if directory is None:
            directory = Path(run_tool([find_tool("postconf"), "-h", "config_directory"]).strip())
        # a relative directory half works: `postfix reload` is silently not applied
        self.directory = directory.absolute()
        self.main, self.master = self.directory / "main.cf", self.directory / "master.cf"
        for path in (self.main, self.master):
            if not path.is_file():
                raise PostfixFailed(f"{path}: no such file; give the directory of main.cf with --postfix-config")

    def run(self, tool: str, *arguments: str, text: str | None = None) -> str:
        """What a tool prints, for this instance."""
        return run_tool([find_tool(tool), "-c", str(self.directory), *arguments], text=text)

    # main.cf; what changes it is for copies: postconf(1) keeps neither owner nor mode nor a symbolic link

    def entries(self) -> Mapping[str, Entry]:
        """What main.cf sets."""
        return read_entries(read_text(self.main))

    def defaults(self) -> Mapping[str, str]:
        """What holds where main.cf sets nothing."""
        return self._values("-d")

    def expanded(self, *names: str) -> Mapping[str, str]:
        """Settings as they take effect, with the values of others filled in; without names, all."""
        return self._values("-x", *names)

    def expanded_with(self, setting: str, value: str, name: str) -> str:
        """What a setting would be if another one had this value."""
        return self._values("-o", f"{setting}={value}", "-x", name).get(name, "")

    def effective(self, *names: str) -> Mapping[str, str]:
        """Settings as they take effect, `$name` as written."""
        return self._values(*names)

    def _values(self, *arguments: str) -> Mapping[str, str]:
        lines = (line.partition(" =") for line in split_lines(self.run("postconf", *arguments)))
        return {name: value.strip(BLANKS) for name, _, value in lines}

    def edit(self, settings: Mapping[str, str]) -> None:
        if settings:
            _end_last_line(self.main)
            self.run("postconf", "-e", *(f"{name} = {value}" for name, value in settings.items()))

    def unset(self, names: Collection[str]) -> None:
        if names:
            self.run("postconf", "-X", *names)

    # master.cf; a service is called NAME/TYPE

    def services(self) -> Mapping[str, str]:
        """Every service, its blanks made single."""
        found = {}
        for line in split_lines(self.run("postconf", "-M")):
            words = re.findall(f"[^{BLANKS}]+", line)
            if len(words) >= 8:
                found[f"{words[0]}/{words[1]}"] = " ".join(words)
        return found

    def put_service(self, service: str, line: str) -> None:
        _end_last_line(self.master)
        self.run("postconf", "-M", f"{service}={line}")

    def remove_service(self, service: str) -> None:
        self.run("postconf", "-MX", service)

    def overrides(self, name: str) -> Mapping[str, str]:
        """The services that set a setting for themselves (`-o`), and how."""
        lines = (line.partition(" =") for line in split_lines(self.run("postconf", "-P", f"*/*/{name}")))
        return {place.rpartition("/")[0]: value.strip(BLANKS) for place, _, value in lines}

    def is_running(self) -> bool:
        try:
            self.run("postfix", "status")
        except PostfixFailed:
            return False
        return True

    def reload(self) -> None:
        if not self.is_running():  # its script says so in the log alone
            raise PostfixFailed("Postfix is not running: it reads its files when it starts")
        self.run("postfix", "reload")


def run_tool(command: list[str], text: str | None = None) -> str:
    """Standard output; PostfixFailed with what the tool says."""
    try:
        run = subprocess.run(
            [os.fsencode(word) for word in command],
            input=None if text is None else text.encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PostfixFailed(
            f"{Path(command[0]).name} did not end within {PATIENCE:g} s; see Postfix' log", 75
        ) from None
    if run.returncode:
        said = complaint(run.stderr.decode("utf-8", "surrogateescape"))
        raise PostfixFailed(
            said or f"{Path(command[0]).name} failed with status {run.returncode}, and says why in Postfix' log"
        )
    return run.stdout.decode("utf-8", "surrogateescape")


def complaint(text: str) -> str:
    """The line of a tool's standard error that says why it failed; empty when it said nothing."""
    said = text.splitlines()
    lines = [line for line in said if "fatal:" in line] or [line for line in said if "warning:" not in line] or said
    if lines and lines[0].endswith(MACRO_ERROR):  # says neither what nor where; the warning before it does
        return "; ".join(dict.fromkeys([lines[0], *(line.partition("warning: ")[2] for line in said[:1])]))
    return lines[0] if lines else ""


def read_text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step; a link to it stays, and so do owner, group and mode. A new one is private."""
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.postroom")
    temporary.unlink(missing_ok=True)  # what a crash left
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            if target.exists():
                _give_back(temporary, target.stat())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # nobody knows the temporary one
        if error.errno == errno.EPERM:  # for root, too
            raise PostfixFailed(f"{path}: {error.strerror}: `lsattr {path}` may say why; then do it again") from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_last_line(path: Path) -> None:
    """postconf would write its first line onto an unfinished one."""
    text = read_text(path)
    if text and not text.endswith("\n"):
        write_text(path, text + "\n")


def _give_back(path: Path, before: os.stat_result) -> None:
    now = path.stat()
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        os.chown(path, before.st_uid, before.st_gid)
    if now.st_mode != before.st_mode:
        path.chmod(before.st_mode & 0o7777)
