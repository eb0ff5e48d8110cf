"""`postroom-deliver`, the reference's `postfix-local`: hands a mail from a pipe to the LMTP front.

Postfix' pipe(8) starts it once a mail, so it imports next to nothing and stands alone: `python3 -IS pipe.py` works.
Whatever goes wrong here, the mail server is told to try again (mail-server side: exit status 75 and one line that
begins with an enhanced status code).
"""

import _socket  # what socket wraps; the wrapper imports enum, selectors and collections and doubles the start-up
import os
import sys

EX_OK, EX_NOUSER, EX_UNAVAILABLE, EX_TEMPFAIL, EX_NOPERM = 0, 67, 69, 75, 77  # sysexits.h

SOCKET_VARIABLE = "POSTROOM_LMTP"
DEFAULT_SOCKET = "/run/postroom/lmtp.sock"
TIME_LIMIT = 600  # seconds for each answer; pipe(8) bounces after 1000, so this has to give up before
CHUNK = 65536
MAX_REPLY = 65536
MAX_OUTPUT = 900  # octets of the line for the mail server

USAGE = "usage: postroom-deliver -f SENDER -d RECIPIENT [-d RECIPIENT]... [-p ROOT] [--queue-id ID] [...]"

OPTIONS = {
    "-f": "sender",
    "-d": "recipients",
    "-p": "root",
    "--queue-id": "IDENT",
    "--client-address": "ADDR",
    "--client-name": "NAME",
    "--client-port": "PORT",
    "--client-helo": "HELO",
    "--sasl-username": "LOGIN",
    "--original-recipient": "ORCPT",
    "--socket": "socket",
}
XFORWARD = ("IDENT", "ADDR", "NAME", "PORT", "HELO")
XPOSTROOM = ("LOGIN", "ORCPT")


class Failure(Exception):
    """The mail has not been taken; says why, for the log of the mail server."""


def parse(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options by name, and the recipients."""
    options: dict[str, str] = {}
    recipients: list[str] = []
    position = 0
    while position < len(arguments):
        name, equals, value = arguments[position].partition("=")
        if not name.startswith("--"):
            name, equals, value = arguments[position], "", ""
        meaning = OPTIONS.get(name)
        if meaning is None:
            raise Failure(f"unknown argument {name[:80]!r}; {USAGE}")
        if not equals:
            position += 1
            if position >= len(arguments):
                raise Failure(f"{name} needs a value; {USAGE}")
            value = arguments[position]
        position += 1
        if meaning == "recipients":
            recipients.append(value)
        else:
            options[meaning] = value
    if "sender" not in options or not recipients:
        raise Failure("sender or recipient is missing; " + USAGE)
    return options, recipients


def connect(place: str) -> _socket.socket:
    """`/path`, `unix:/path`, `inet:host:port` or `inet6:[host]:port`."""
    family = _socket.AF_UNIX
    target: str | tuple[str, int] = place[5:] if place.startswith("unix:") else place
    if place.startswith(("inet:", "inet6:")):
        family = _socket.AF_INET if place.startswith("inet:") else _socket.AF_INET6
        host, _, port = place.partition(":")[2].rpartition(":")
        if not port.isdigit():
            raise Failure("--socket is none: write /path, inet:host:port or inet6:[host]:port")
        target = (host.strip("[]"), int(port))
    try:
        connection = _socket.socket(family, _socket.SOCK_STREAM)
        connection.settimeout(TIME_LIMIT)
        connection.connect(target)
    except (OSError, OverflowError):
        raise Failure("Mail delivery service is not running") from None
    return connection


class Client:
    """The few words of LMTP that are needed."""

    def __init__(self, connection: _socket.socket) -> None:
        self.connection = connection
        self.received = b""

    def send(self, octets: bytes) -> None:
        self.connection.sendall(octets)

    def reply(self) -> tuple[int, str]:
        """(code, all lines joined)."""
        texts = []
        size = 0
        while True:
            line = self.line()
            size += len(line)
            if size > MAX_REPLY or not line[:3].isdigit():
                raise Failure("Mail delivery service gave no valid answer")
            texts.append(line[4:].decode("utf-8", "replace"))
            if line[3:4] != b"-":
                return int(line[:3]), join(texts)

    def line(self) -> bytes:
        while b"\n" not in self.received:
            octets = self.connection.recv(CHUNK)
            if not octets or len(self.received) > MAX_REPLY:
                raise Failure("Mail delivery service hung up")
            self.received += octets
        line, _, self.received = self.received.partition(b"\n")
        return line.rstrip(b"\r")

    def expect(self, command: bytes, code: int) -> None:
        self.send(command + b"\r\n")
        found, text = self.reply()
        if found != code:
            raise Failure(f"{command.split(b' ')[0].decode()} was answered {found} {text}")


def join(texts: list[str]) -> str:
    """The lines of a reply as one, the enhanced status code only once."""
    code = texts[0].split(" ")[0]
    is_code = code.replace(".", "").isdigit() and code.count(".") == 2
    return " ".join(
        [texts[0]] + [text[len(code) + 1 :] if is_code and text.startswith(code) else text for text in texts[1:]]
    )


def xtext(value: str) -> bytes:
    """RFC 3461 4."""
    octets = value.encode("utf-8", "surrogateescape")
    return b"".join(bytes((o,)) if 33 <= o <= 126 and o not in b"+=" else b"+%02X" % o for o in octets)


def path(address: str) -> bytes:
    """The address for MAIL and RCPT: a local part that is no dot-string gets its quotes back (RFC 5321 4.1.2)."""
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = address, ""
    plain = all(letter.isalnum() or letter in "!#$%&'*+-/=?^_`{|}~." or letter > "\x7f" for letter in local)
    if not (plain or (len(local) > 1 and local[0] == local[-1] == '"')):
        escaped = local.replace("\\", "\\\\").replace('"', '\\"')
        local = f'"{escaped}"'
    octets = (local + at + domain).encode("utf-8", "surrogateescape")
    if any(octet < 32 or octet == 127 for octet in octets):
        raise Failure("address with control characters")
    return b"<" + octets + b">"


def introduce(client: Client, options: dict[str, str]) -> None:
    """Greeting, and what pipe(8) knows of the session. pipe(8) says `unknown` and empty for what it does not know."""
    code, text = client.reply()
    if code != 220:
        raise Failure(f"Mail delivery service answered {code} {text}")
    client.expect(b"LHLO localhost", 250)
    facts = [(name, options[name]) for name in XFORWARD if options.get(name)]
    facts = [(name, value) for name, value in facts if not (name in ("ADDR", "PORT") and value.lower() == "unknown")]
    if facts:
        client.expect(b"XFORWARD " + b" ".join(name.encode() + b"=" + xtext(value) for name, value in facts), 250)
    facts = [("ROOT", options.get("root", ""))]
    facts += [(name, options[name]) for name in XPOSTROOM if options.get(name)]
    client.expect(b"XPOSTROOM " + b" ".join(name.encode() + b"=" + xtext(value) for name, value in facts), 250)


def send_mail(client: Client, descriptor: int) -> None:
    """Standard input with CRLF line ends and doubled dots (RFC 5321 4.5.2), as it comes."""
    at_line_start = True
    held = b""
    while True:
        octets = os.read(descriptor, CHUNK)
        chunk = held + octets
        held = b""
        if octets and chunk.endswith(b"\r"):
            chunk, held = chunk[:-1], b"\r"
        if chunk:
            stuffed = b"\n" + chunk if at_line_start else chunk
            stuffed = stuffed.replace(b"\r\n", b"\n").replace(b"\n.", b"\n..")
            stuffed = stuffed[1:] if at_line_start else stuffed
            client.send(stuffed.replace(b"\n", b"\r\n"))
            at_line_start = chunk.endswith(b"\n")
        if not octets:
            break
    client.send(b".\r\n" if at_line_start else b"\r\n.\r\n")


def deliver(options: dict[str, str], recipients: list[str], descriptor: int) -> list[tuple[int, str]]:
    """The reply for each recipient."""
    place = options.get("socket") or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
    sender = options["sender"]
    if sender.upper() == "MAILER-DAEMON":  # pipe(8) without null_sender=
        sender = ""
    connection = connect(place)
    try:
        return converse(Client(connection), options, sender, recipients, descriptor)
    finally:
        connection.close()


def converse(
    client: Client, options: dict[str, str], sender: str, recipients: list[str], descriptor: int
) -> list[tuple[int, str]]:
    """One transaction; the reply for each recipient."""
    introduce(client, options)
    client.send(b"MAIL FROM:" + (path(sender) if sender else b"<>") + b"\r\n")
    code, text = client.reply()
    if code != 250:
        return [(code, text)]
    answers = []
    accepted = 0
    for recipient in recipients:
        client.send(b"RCPT TO:" + path(recipient) + b"\r\n")
        code, text = client.reply()
        if 200 <= code < 300:
            accepted += 1
        else:
            answers.append((code, text))
    if accepted:
        client.expect(b"DATA", 354)
        send_mail(client, descriptor)
        answers += [client.reply() for _ in range(accepted)]
    try:
        client.send(b"QUIT\r\n")
    except OSError:
        pass  # all is said
    return answers


def result(answers: list[tuple[int, str]]) -> tuple[int, str]:
    """(exit status, line) for the mail server: a temporary failure before a permanent one before success."""
    for kind in (4, 5):
        for code, text in answers:
            if code // 100 == kind:
                return status(code, text)
    if answers and all(code // 100 == 2 for code, _ in answers):
        return EX_OK, ""
    return EX_TEMPFAIL, "4.3.0 Mail delivery service gave no valid answer"


def status(code: int, text: str) -> tuple[int, str]:
    """The exit status and line for a refusal. pipe(8) goes by the line's code, others by the status."""
    kind = code // 100
    enhanced, _, rest = text.partition(" ")
    parts = enhanced.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts) or int(parts[0]) != kind:
        enhanced, rest = f"{kind}.3.0", text
    line = f"{enhanced} {rest.strip() or 'Service unavailable'}"
    if kind == 4:
        return EX_TEMPFAIL, line
    if enhanced == "5.1.1":
        return EX_NOUSER, line
    return (EX_NOPERM if enhanced.startswith("5.7.") else EX_UNAVAILABLE), line


def run(arguments: list[str], descriptor: int = 0) -> tuple[int, str]:
    """Deliver, and never raise."""
    try:
        options, recipients = parse(arguments)
        return result(deliver(options, recipients, descriptor))
    except Failure as failure:
        return EX_TEMPFAIL, f"4.3.0 {failure}"
    except OSError as error:
        why = error.strerror or "no answer in time"
        return EX_TEMPFAIL, f"4.3.0 Mail delivery service cannot be reached: {why}"
    except BaseException as error:  # noqa: BLE001  # 1, what Python exits with, would bounce the mail
        return EX_TEMPFAIL, f"4.3.0 postroom-deliver failed: {type(error).__name__}"


def main() -> int:
    """The console script: one line on standard output, and the exit status."""
    code, line = run(sys.argv[1:])
    if line:
        clean = "".join(" " if ord(character) < 32 or ord(character) == 127 else character for character in line)
        try:
            os.write(1, clean.encode("utf-8", "replace")[:MAX_OUTPUT] + b"\n")
        except OSError:
            pass  # nobody listens; the exit status says the same
    return code


if __name__ == "__main__":
    os._exit(main())  # the interpreter's own end costs a millisecond and can fail
