"""Stands where local programs look for sendmail(1), before msmtp: before-queue and before-remote.

What goes on unchanged is handed to msmtp with the very options that were given; what a handler changed, with the
recipients spelled out. msmtp's exit status is the answer.
"""

import os

from postroom.fronts.handover.client import (
    CHUNK,
    ORIGINAL,
    Answer,
    Away,
    arguments,
    ask,
    become,
    environment,
    occupy_low_descriptors,
    spool,
    write_all,
)

EX_OK, EX_USAGE, EX_SOFTWARE, EX_TEMPFAIL, EX_NOPERM = 0, 64, 70, 75, 77  # sysexits.h

# msmtp(1)'s options that take their value from the next argument when it is not attached.
SHORT_WITH_VALUE = b"ABCFLNORXabfhor"
LONG_WITH_VALUE = frozenset(
    b"--configure --rmqs --file --account --host --port --source-ip --proxy-host --proxy-port --socket --timeout "
    b"--connect-timeout "
    b"--protocol --domain --user --passwordeval --tls-trust-file --tls-crl-file --tls-fingerprint --tls-key-file "
    b"--tls-cert-file --tls-priorities --tls-host-override --tls-min-dh-prime-bits --from --maildomain --dsn-notify "
    b"--dsn-return --logfile --logfile-time-format --aliases".split()
)
LONG_WITHOUT = frozenset(
    b"--version --help --pretend --debug --serverinfo --auth --tls --tls-starttls --tls-certcheck --tls-force-sslv3 "
    b"--auto-from --syslog "
    b"--read-recipients --read-envelope-from --set-from-header --set-date-header --set-msgid-header "
    b"--remove-bcc-headers --undisclosed-recipients --keepbcc".split()
)
SENDS_NOTHING = frozenset(b"--version --help --pretend --serverinfo --rmqs --configure -P -S".split())


class NotForUs(Exception):
    """A command line that sends no mail."""


class NotUnderstood(Exception):
    """An option that msmtp will complain of, or one of a newer msmtp: who gets the mail cannot be told."""


class CommandLine:
    """`options`: as given, less those that say who gets the mail and from whom."""

    def __init__(self, argv: "list[bytes]") -> None:
        self.options: list[bytes] = []
        self.recipients: list[bytes] = []
        self.from_mail = False
        self._read(argv[1:])

    def _read(self, words: "list[bytes]") -> None:
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            if word == b"--":
                self.recipients += words[at:]
                return
            if word[:1] != b"-" or word == b"-":
                self.recipients.append(word)
            elif word[:2] == b"--":
                at = self._long(word, words, at)
            else:
                at = self._short(word, words, at)

    def _long(self, word: bytes, words: "list[bytes]", at: int) -> int:
        given, equals, _ = word.partition(b"=")
        known = LONG_WITH_VALUE | LONG_WITHOUT
        names = [given] if given in known else [name for name in known if name.startswith(given)]  # getopt_long(3)
        if len(names) != 1:
            raise NotUnderstood
        taken = [word]
        if names[0] in LONG_WITH_VALUE and not equals:
            taken += words[at : at + 1]
            at += 1
        self._keep(names[0], taken)
        return at

    def _short(self, word: bytes, words: "list[bytes]", at: int) -> int:
        """Several letters may stand in one word; one that takes a value takes the rest of it."""
        place = 1
        while place < len(word):
            letter = word[place : place + 1]
            place += 1
            taken = [b"-" + letter]
            if letter in SHORT_WITH_VALUE:
                if place < len(word):
                    taken = [b"-" + word[place - 1 :]]
                else:
                    taken += words[at : at + 1]
                    at += 1
                place = len(word)
            if letter == b"b" and taken not in ([b"-bm"], [b"-b", b"m"]):
                raise NotForUs
            self._keep(b"-" + letter, taken)
        return at

    def _keep(self, name: bytes, taken: "list[bytes]") -> None:
        if name in SENDS_NOTHING:
            raise NotForUs
        if name in (b"-t", b"--read-recipients"):
            self.from_mail = True
        elif name not in (b"-f", b"--from", b"--read-envelope-from"):
            self.options += taken


def envelope_sender(argv: "list[bytes]", message: int) -> bytes:
    """Whom msmtp will send the mail for, by its own word: options, account and mail all have a say in that."""
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, message, 0), (os.POSIX_SPAWN_DUP2, writing, 1)]
    os.lseek(message, 0, os.SEEK_SET)
    command = [argv[0], b"--pretend", *argv[1:]]
    child = os.posix_spawn(ORIGINAL, command, environment(), file_actions=actions)
    os.close(writing)
    said = b""
    while octets := os.read(reading, CHUNK):
        said += octets
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise SystemExit(status if status > 0 else EX_TEMPFAIL)  # it has told the user why
    for line in said.split(b"\n"):
        name, equals, value = line.partition(b" = ")
        if equals and name == b"from":
            return b"" if value == b"(not set)" else value
    return b""


def changed(argv: "list[bytes]", line: CommandLine, sender: bytes, answer: Answer) -> "list[bytes]":
    """msmtp's command line for a mail that a handler changed."""
    new = sender if answer.sender is None else answer.sender
    recipients = answer.recipients or line.recipients
    return [argv[0], *line.options, b"--from=" + new, b"--", *recipients]


def say(text: bytes) -> None:
    try:
        write_all(2, b"sendmail: " + text + b"\n")
    except OSError:
        pass  # nobody listens; the exit status says the same


def run() -> int:
    """Ends by becoming msmtp, or with the exit status."""
    argv = arguments()
    try:
        line = CommandLine(argv)
    except NotForUs:
        become(argv, {})
        return EX_SOFTWARE
    except NotUnderstood:
        envelope_sender(argv, spool(0))  # ends here when it is wrong
        say(b"there is an option that the wrapper does not know, and the mail would pass by the handlers: not sent")
        return EX_USAGE
    message = spool(0)
    sender = envelope_sender(argv, message)
    facts = {b"READ_RECIPIENTS": b"1"} if line.from_mail else {}
    answer = ask(b"submit", facts, sender, line.recipients, message)
    if answer.word == b"DONE":
        return EX_OK
    if answer.word != b"PASS":
        say(b"the mail is refused: " + answer.reason())
        return EX_NOPERM if answer.word == b"REJECT" else EX_TEMPFAIL
    if answer.changed:
        argv = changed(argv, line, sender, answer)
    if answer.message is not None:
        message = answer.message
    os.lseek(message, 0, os.SEEK_SET)
    become(argv, {0: message})
    return EX_SOFTWARE


def main() -> int:
    try:
        occupy_low_descriptors()
        return run()
    except Away:
        say(b"mail service unavailable - try again later")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EX_TEMPFAIL
    except OSError as error:
        say(b"the mail cannot be handled: " + os.fsencode(error.strerror or "input or output error"))
    except BaseException:  # noqa: BLE001  # never a traceback for a program that only wants to send a mail
        say(b"internal error, try again later")
    return EX_TEMPFAIL


if __name__ == "__main__":
    os._exit(main())
