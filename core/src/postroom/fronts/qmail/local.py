"""Stands before qmail-local: before-local, for one recipient.

qmail-lspawn(8) runs `qmail-local -- user homedir local dash ext domain sender aliasempty`, with the queue's own file on
descriptor 0 and a pipe for the report on 1 and 2. 100 bounces, 111 tries again.
"""

import os

from postroom.fronts.handover.client import (
    Away,
    arguments,
    ask,
    become,
    occupy_low_descriptors,
    spool,
    write_all,
)

CONTROL = "/var/qmail/control"
HARD, SOFT = 100, 111
MAX_CONTROL = 64 << 20
LOCAL, DOMAIN, SENDER = 2, 5, 6  # places after the options


def control(name: str) -> "list[bytes]":
    """The lines of a control file, less blanks and comments; none when it is not there."""
    try:
        descriptor = os.open(f"{CONTROL}/{name}", os.O_RDONLY)
    except OSError:
        return []
    octets = os.read(descriptor, MAX_CONTROL)
    os.close(descriptor)
    return [line.rstrip(b" \t") for line in octets.split(b"\n") if line.rstrip(b" \t") and line[:1] != b"#"]


def real_address(local: bytes, domain: bytes) -> bytes:
    """The recipient before qmail-send put the prefix of control/virtualdomains before it."""
    whole = local + b"@" + domain
    lowered = domain.lower()
    if lowered in [line.lower() for line in control("locals") or control("me")]:
        return whole
    places = [lowered[at:] for at in range(len(lowered)) if not at or lowered[at : at + 1] == b"."] + [b""]
    found: dict[bytes, bytes] = {}
    for line in control("virtualdomains"):
        key, colon, prefix = line.partition(b":")
        key = key.lower()
        if colon and key in places:
            found.setdefault(key, prefix)
        elif colon and prefix and key.endswith(b"@" + lowered):  # one user's own
            user = local[len(prefix) + 1 :]
            if local.startswith(prefix + b"-") and user.lower() + b"@" + lowered == key:
                return user + b"@" + domain
    for key in places:
        if key in found:
            prefix = found[key] + b"-"
            return local[len(prefix) :] + b"@" + domain if found[key] and local.startswith(prefix) else whole
    return whole


def operands(argv: "list[bytes]") -> "list[bytes]":
    """What follows the options; empty for a run that delivers nothing, or one that qmail-local will complain of."""
    position = 1
    while position < len(argv) and argv[position][:1] == b"-" and len(argv[position]) > 1:
        position += 1
        if argv[position - 1] == b"--":
            break
        if argv[position - 1] != b"-N":  # -n only shows what would be done
            return []
    return argv[position:] if len(argv) - position == 8 else []


def is_seekable(descriptor: int) -> bool:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        return False
    return True


def run() -> "tuple[int, bytes]":
    """Ends by becoming the original, or with (exit status, report)."""
    argv = arguments()
    words = operands(argv)
    message = 0 if is_seekable(0) else spool(0)
    if words:
        recipient = real_address(words[LOCAL], words[DOMAIN])
        answer = ask(b"local", {}, words[SENDER], [recipient], message)
        if answer.word == b"DONE":
            return 0, b""
        if answer.word != b"PASS":
            return (HARD if answer.word == b"REJECT" else SOFT), answer.reason() + b"\n"
        if answer.message is not None:
            message = answer.message
        if answer.sender is not None:
            argv[len(argv) - len(words) + SENDER] = answer.sender
    os.lseek(message, 0, os.SEEK_SET)
    become(argv, {0: message})
    return SOFT, b""


def main() -> int:
    status, report = SOFT, b""
    try:
        occupy_low_descriptors()
        status, report = run()
    except Away:
        report = b"Mail service unavailable - try again later (#4.3.0)\n"
    except OSError:
        report = b"Unable to handle the message (#4.3.0)\n"
    except BaseException:  # noqa: BLE001  # any other status bounces the mail
        report = b"Internal error of the mail service (#4.3.0)\n"
    try:
        write_all(1, report)
    except OSError:
        pass  # nobody listens
    return status


if __name__ == "__main__":
    os._exit(main())
