"""The wrappers' side of the hand-over: asks the running server about one mail. Stands alone, with what is built in.

A wrapper is installed as one file, made of this one and its own (`postroom.mta.script`). Its environment may be
hostile: nothing here looks at it. No function writes to standard error, which may be anybody's pipe.
"""

import _signal  # type: ignore[import-not-found]  # what signal wraps; the wrapper imports enum and doubles the start-up
import _socket  # likewise
import os
import sys

# The installation writes the lines that are right for this host.
SOCKET = "/run/postroom/handover.sock"
TEMPORARY = "/var/tmp"  # noqa: S108  # where a mail is kept while it is handled, in a file without a name
ORIGINAL = ""  # the program that the wrapper stands before

TIME_LIMIT = 600  # seconds of silence; the server answers long before
CHUNK = 65536
MAX_FRAME = 1 << 20
FIRST_OWN = 10  # descriptors below may mean something to the program that comes next


class Away(Exception):
    """The server is not there, or it hung up: try again later."""


class Answer:
    """What the server says of a mail. None: as it was. `message` is a descriptor at the start of the new one."""

    def __init__(self) -> None:
        self.word = b""
        self.code = b""
        self.text = b""
        self.sender: bytes | None = None
        self.recipients: list[bytes] = []
        self.message: int | None = None
        self.out: dict[bytes, tuple[bytes, bytes]] = {}  # recipient: (action, text)

    @property
    def changed(self) -> bool:
        return self.sender is not None or bool(self.recipients) or self.message is not None

    def reason(self) -> bytes:
        """For people and for qmail: `text (#5.7.1)`."""
        return self.text[:200] + b" (#" + self.code + b")"


def occupy_low_descriptors() -> None:
    """Whatever this process opens must not become what the next program takes for its own. They close at exec.

    Reading from one that was closed goes on being an error: a mail that is not there is not an empty mail.
    """
    while (descriptor := os.open("/dev/null", os.O_WRONLY)) < FIRST_OWN:
        pass
    os.close(descriptor)


def temporary_file() -> int:
    """A file without a name, open for reading and writing."""
    for directory in (TEMPORARY, "/tmp"):  # noqa: S108  # the file has no name
        try:
            return os.open(directory, os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o600)
        except OSError:
            pass
        path = f"{directory}/.postroom-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDWR, 0o600)
        except OSError:
            continue
        os.unlink(path)  # noqa: PTH108  # no pathlib here
        return descriptor
    raise OSError(2, "no directory for temporary files")


def write_all(descriptor: int, octets: bytes) -> None:
    while octets:
        octets = octets[os.write(descriptor, octets) :]


def spool(source: int) -> int:
    """All that can be read from there, in a temporary file."""
    copy = temporary_file()
    while octets := os.read(source, CHUNK):
        write_all(copy, octets)
    return copy


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


def ask(role: bytes, facts: "dict[bytes, bytes]", sender: bytes, recipients: "list[bytes]", message: int) -> Answer:
    """Hand the mail over. `message` is a seekable descriptor; its position is not touched."""
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.settimeout(TIME_LIMIT)
        connection.connect(SOCKET)
        parts = [frame(b"H", b"1\0" + role)]
        parts += [frame(b"F", name + b"=" + value[:1000]) for name, value in facts.items()]
        parts.append(frame(b"S", sender))
        parts += [frame(b"R", recipient) for recipient in recipients]
        connection.sendall(b"".join(parts))
        position = 0
        while octets := os.pread(message, CHUNK, position):
            connection.sendall(frame(b"M", octets))
            position += len(octets)
        connection.sendall(frame(b"E"))
    except OSError:
        raise Away("cannot hand the mail over") from None
    try:
        return read_answer(connection)
    finally:
        connection.close()


def read_answer(connection: _socket.socket) -> Answer:
    answer = Answer()
    received = b""
    while True:
        while len(received) < 5 or len(received) < 5 + int.from_bytes(received[1:5], "big"):
            try:
                octets = connection.recv(CHUNK)
            except OSError:
                raise Away("no answer") from None
            if not octets or int.from_bytes(received[1:5], "big") > MAX_FRAME:
                raise Away("no answer")
            received += octets
        end = 5 + int.from_bytes(received[1:5], "big")
        kind, payload, received = received[:1], received[5:end], received[end:]
        if kind == b"E":
            break
        take(answer, kind, payload)
    if answer.word not in (b"PASS", b"DONE", b"DEFER", b"REJECT"):
        raise Away("no verdict")
    if answer.message is not None:
        os.lseek(answer.message, 0, os.SEEK_SET)
    return answer


def take(answer: Answer, kind: bytes, payload: bytes) -> None:
    if kind == b"V":
        answer.word, answer.code, answer.text = payload.split(b"\0", 2)
    elif kind == b"S":
        answer.sender = payload
    elif kind == b"R":
        answer.recipients.append(payload)
    elif kind == b"M":
        if answer.message is None:
            answer.message = temporary_file()
        write_all(answer.message, payload)
    elif kind == b"O":
        action, text, recipient = payload.split(b"\0", 2)
        answer.out[recipient] = (action, text)


def arguments() -> "list[bytes]":
    """The command line, as octets."""
    return [os.fsencode(each) for each in sys.argv]


def environment() -> "dict[bytes, bytes]":
    """As this process was given it; the interpreter adds to os.environ in a C locale."""
    with open("/proc/self/environ", "rb", 0) as file:  # noqa: PTH123  # no pathlib here
        octets = file.readall()
    pairs = [entry.partition(b"=") for entry in octets.split(b"\0")]
    return {name: value for name, equals, value in reversed(pairs) if name and equals}


def become(argv: "list[bytes]", descriptors: "dict[int, int]") -> None:
    """The original program takes this process over, with those descriptors in those places."""
    for place, descriptor in descriptors.items():
        os.dup2(descriptor, place)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # the interpreter ignores them
        _signal.signal(number, _signal.SIG_DFL)
    os.execve(ORIGINAL, argv, environment())  # noqa: S606  # no shell is wanted
