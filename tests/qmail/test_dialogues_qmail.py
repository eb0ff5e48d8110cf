"""The dialogues of the milter front, where they apply to qmail-queue: what was asked of the mail server there must be
what the original gets here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from dialogues.conversation import Step, read_case, show
from dialogues.scripted import octets
from postroom.mail import Field, parse_message
from qmail.house import Ended, House, Start, envelope

CASES = Path(__file__).parents[1] / "dialogues" / "cases"

# The others are about what only a milter has: negotiation, answers at DATA alone, the mail server's transports.
NAMES = (
    "02-refused-at-data", "03-rejected-at-data", "05-local-submission", "07-authenticated", "09-header-edits",
    "11-forged-results", "13-body", "14-envelope-edits", "15-some-recipients-out", "16-strictest-answer",
    "27-registry-away", "29-multi-line-reply", "31-handler-fails", "35-raw-addresses",
)  # fmt: skip
LOGGED_IN = b"Authentication-Results: mx.test.example;\n\tauth=pass\n"
KNOWN_FACTS = ("sender", "recipients", "client", "traffic", "user", "header", "body")


class Mail:
    """One transaction of a case."""

    def __init__(self, sender: bytes) -> None:
        self.sender = sender
        self.recipients: list[bytes] = []
        self.fields: list[bytes] = []
        self.body = b""
        self.refused = False

    def octets(self) -> bytes:
        return b"".join(field + b"\n" for field in self.fields) + b"\n" + self.body.replace(b"\r\n", b"\n")


class QmailPlayer:
    """Collects a mail from a case's events, hands it to qmail-queue, and holds the milter's answers against it."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._environment = {"TCPREMOTEIP": "203.0.113.5"}
        self._mail = Mail(b"")

    def play(self, steps: list[Step]) -> None:
        for step in steps:
            self._play(step)

    def _play(self, step: Step) -> None:
        word, _, rest = step.words.partition(" ")
        match word:
            case "given":
                self._house.given(rest)
            case "registry":
                self._house.world.registry.broken = rest == "away"
            case "macro":
                name, _, value = rest.partition("=")
                if name == "{auth_authen}":
                    self._environment["SMTPAUTHUSER"] = value
            case "connect":
                told = dict(each.split("=", 1) for each in rest.split())
                if told.get("daemon_port") == "0":
                    self._environment = {}
                elif "address" in told:
                    self._environment["TCPREMOTEIP"] = told["address"]
            case "mail":
                self._mail = Mail(octets(rest.split(" ")[0]))
            case "rcpt":
                self._mail.recipients.append(octets(rest))
            case "header":
                self._mail.fields.append(octets(rest).replace(b"\r\n", b"\n"))
            case "body":
                self._mail.body += octets(rest)
            case "data" | "end":
                if word == "end" or any(line[:1] in "45" for line in step.expected):
                    self._hand_over(step)
            case "saw":
                self._check_seen(step, rest)
            case "calls":
                name, count = rest.split()
                assert len(self._house.calls(name)) == int(count)

    def _hand_over(self, step: Step) -> None:
        if self._mail.refused:
            return
        before = len(self._house.notes())
        start = Start(self._environment)
        ended = self._house.queue(envelope(self._mail.sender, *self._mail.recipients), self._mail.octets(), start)
        passed = self._house.notes()[before:]
        answer = step.expected[-1]
        if answer[:1] in "45":
            self._mail.refused = True
            self._check_refusal(ended, answer, step)
            assert not passed
            return
        assert (ended.status, ended.said) == (0, b""), f"line {step.number}"
        if answer == "discard":
            assert not passed, f"line {step.number}"
            return
        expected = self._expected(step.expected[:-1])
        assert (passed[0].sender, sorted(passed[0].recipients)) == (expected.sender, sorted(expected.recipients))
        mail = passed[0].mail
        if "SMTPAUTHUSER" in self._environment:  # for later stages; a milter's mail server tells those itself
            assert mail.startswith(LOGGED_IN)
            mail = mail.removeprefix(LOGGED_IN)
        assert mail == expected.octets(), f"line {step.number}"

    @staticmethod
    def _check_refusal(ended: Ended, answer: str, step: Step) -> None:
        lines = [line.split(" ", 1) for line in answer.split("\\r\\n")]
        enhanced = lines[0][0][4:] or lines[0][1].split(" ")[0]
        text = " ".join(line[1].removeprefix(enhanced + " ") for line in lines)
        word = "D" if answer[0] == "5" else "Z"
        assert ended.status == 82, f"line {step.number}"
        assert ended.said.decode() == f"{word}{text} (#{enhanced})", f"line {step.number}"

    def _expected(self, operations: list[str]) -> Mail:
        """The mail as the mail server would make it: its own hidden field is number 0 for insertions."""
        mail = Mail(self._mail.sender)
        mail.recipients, mail.fields, mail.body = list(self._mail.recipients), list(self._mail.fields), self._mail.body
        fields = [b"", *mail.fields]
        for operation in operations:
            word, _, rest = operation.partition(" ")
            value = octets(rest)
            match word:
                case "insert":
                    index, _, field = value.partition(b" ")
                    fields.insert(int(index), field)
                case "add":
                    fields.append(value)
                case "change":
                    index, _, field = value.partition(b" ")
                    _change(fields, int(index), field)
                case "body":
                    mail.body = value
                case "sender":
                    mail.sender = value.strip(b"<>")
                case "addrcpt":
                    mail.recipients.append(value.strip(b"<>"))
                case "delrcpt":
                    mail.recipients.remove(value.strip(b"<>"))
        mail.fields = [field for field in fields if field]
        return mail

    def _check_seen(self, step: Step, rest: str) -> None:
        name, _, pair = rest.partition(" ")
        key, _, value = pair.partition("=")
        if key not in KNOWN_FACTS:
            return
        found, message = self._house.calls(name)[-1]
        facts = {
            "sender": found.sender.text,
            "recipients": ",".join(each.text for each in found.recipients),
            "client": str(found.session.client_address),
            "traffic": str(found.traffic),
            "user": found.session.auth_user,
        }
        if key in facts:
            got = show(facts[key].encode("utf-8", "surrogateescape"))
        else:
            got = show(message.header() if key == "header" else message.body.read())
        assert got == value, f"line {step.number}: {step.words}"


def _change(fields: list[bytes], instance: int, field: bytes) -> None:
    name, _, value = field.partition(b":")
    places = [at for at, each in enumerate(fields) if each.partition(b":")[0].lower() == name.lower()]
    at = places[instance - 1]
    fields[at : at + 1] = [field] if value else []


@pytest.mark.parametrize("name", NAMES)
def test_dialogue_through_qmail_queue(house: House, name: str) -> None:
    QmailPlayer(house).play(read_case(CASES / f"{name}.txt"))


def test_the_comparison_makes_changes_as_the_mail_server_does() -> None:
    fields = [b"", b"A: 1", b"a: 2", b"B: 3"]
    _change(fields, 2, b"a:")
    _change(fields, 1, b"A: new")
    assert fields == [b"", b"A: new", b"B: 3"]
    assert parse_message(b"A: new\nB: 3\n\n").fields[0] == Field(b"A", b" new", 0)
