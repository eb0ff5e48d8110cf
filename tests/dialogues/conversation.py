"""A case file played through a session, by whichever engine: what is sent, what is expected, what handlers saw.

# comment
config KEY=VALUE            [milter] setting, before anything else
ours DOMAIN…                what the directory knows as ours (nothing: nobody told it)
given STAGE NAME TYPE… | VERDICT | EDIT…      a handler (see scripted.py)
enable NAME | disable NAME  a live change
EVENT                       see `Player`; the answers expected follow, one a line:
< ANSWER                    in every engine
<L ANSWER                   in the libmilter engine, instead of the `<` lines of that event
saw NAME KEY=VALUE          what the handler was shown last
calls NAME N                how often it was called
not-for libmilter           the case is for the other engines only
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from dialogues.scripted import World, octets, parse_given
from postroom.config import Config, Host, MilterSettings, build
from postroom.fronts.milter.client import FilterAnswer, FilterGone, MilterClient
from postroom.fronts.milter.wire import (
    POSTFIX_ACTIONS,
    POSTFIX_PROTOCOL,
    Command,
    Negotiation,
    Protocol,
    Response,
    encode_strings,
    packet,
    parse_header,
    parse_indexed,
)

MakeClient = Callable[[World], AbstractContextManager[MilterClient]]


@dataclass
class Step:
    number: int
    words: str
    expected: list[str] = field(default_factory=list)
    expected_libmilter: list[str] = field(default_factory=list)


def read_case(path: Path) -> list[Step]:
    steps: list[Step] = []
    for number, line in enumerate(path.read_text("latin-1").splitlines(), 1):
        if line.startswith("<L "):
            steps[-1].expected_libmilter.append(line[3:])
        elif line.startswith("< "):
            steps[-1].expected.append(line[2:])
        elif line.strip() and not line.startswith("#"):
            steps.append(Step(number, line.strip()))
    return steps


def describe(answer: FilterAnswer) -> Iterator[str]:
    for response, payload in answer.modifications:
        yield _describe_modification(response, payload)
    match answer.response:
        case Response.REPLY_CODE:
            yield show(answer.reply.encode("utf-8", "surrogateescape"))
        case response:
            yield response.name.lower()


def _describe_modification(response: Response, payload: bytes) -> str:
    match response:
        case Response.CHANGE_HEADER | Response.INSERT_HEADER:
            index, name, value = parse_indexed(payload)
            return f"{'change' if response is Response.CHANGE_HEADER else 'insert'} {index} {show(name)}:{show(value)}"
        case Response.ADD_HEADER:
            name, value = parse_header(payload)
            return f"add {show(name)}:{show(value)}"
        case Response.REPLACE_BODY:
            return f"body {show(payload)}" if len(payload) < 200 else f"body of {len(payload)}"
        case _:
            words = {
                Response.CHANGE_SENDER: "sender",
                Response.ADD_RECIPIENT: "addrcpt",
                Response.DELETE_RECIPIENT: "delrcpt",
                Response.QUARANTINE: "quarantine",
            }
            # libmilter appends an empty string for the ESMTP arguments that it has none of
            return f"{words[response]} {show(payload.rstrip(bytes(1)))}"


def show(text: bytes) -> str:
    return text.decode("latin-1").encode("unicode_escape").decode("ascii")


class Player:
    """Plays the steps of one case; AssertionError names the line."""

    def __init__(self, steps: list[Step], directory: Path, make_client: MakeClient, *, libmilter: bool) -> None:
        self._steps, self._make_client, self._libmilter = steps, make_client, libmilter
        settings = dict(step.words[7:].split("=", 1) for step in steps if step.words.startswith("config "))
        table = {key: int(value) if value.isdigit() else value for key, value in settings.items()}
        config = Config(milter=build(MilterSettings, table, "case"), host=Host(name="mx.test.example"))
        ours = [step.words.split()[1:] for step in steps if step.words.startswith("ours")]
        self.world = World(directory, config, ours[0] if ours else None)
        self._macros: dict[bytes, bytes] = {}
        self._offer = Negotiation(6, POSTFIX_ACTIONS, POSTFIX_PROTOCOL)

    def play(self) -> None:
        index = 0
        while index < len(self._steps) and self._prepare(self._steps[index]):
            index += 1
        with self._make_client(self.world) as client:
            client.negotiate(self._offer)
            for step in self._steps[index:]:
                if self._prepare(step):
                    continue
                self._play(client, step)
            client.quit()

    def _prepare(self, step: Step) -> bool:
        """Whether the step was no event."""
        word, _, rest = step.words.partition(" ")
        match word:
            case "config" | "ours" | "not-for":
                pass
            case "given":
                self.world.add(*parse_given(rest))
            case "enable" | "disable":
                self.world.registry.set_enabled(rest, word == "enable")
            case "registry":
                self.world.registry.broken = rest == "away"
            case "offer":
                version, actions, protocol = (int(number, 0) for number in rest.split())
                self._offer = Negotiation(version, POSTFIX_ACTIONS & actions, Protocol(POSTFIX_PROTOCOL & protocol))
            case "saw":
                self._check_seen(step, rest)
            case "calls":
                name, count = rest.split()
                assert len(self.world.handlers[name].calls) == int(count), f"line {step.number}: {step.words}"
            case "logged":
                assert any(rest in text for text in self.world.errors()), f"line {step.number}: {self.world.log.lines}"
            case _:
                return False
        return True

    def _play(self, client: MilterClient, step: Step) -> None:
        try:
            answer = self._event(client, step.words)
            got = [] if answer is None else list(describe(answer))
        except FilterGone:
            got = ["closed"]
        expected = (self._libmilter and step.expected_libmilter) or step.expected
        assert got == expected, f"line {step.number}: {step.words}"

    def _event(self, client: MilterClient, words: str) -> FilterAnswer | None:
        word, _, rest = words.partition(" ")
        match word:
            case "agreed":
                return self._check_agreed(client, rest)
            case "macro":
                name, _, value = rest.partition("=")
                self._macros[octets(name)] = octets(value)
                return None
            case "connect":
                arguments = dict(each.split("=", 1) for each in rest.split())
                told = {
                    key: octets(value) for key, value in arguments.items() if key not in ("name", "address", "port")
                }
                client_name, address = (octets(arguments.get(key, "")) for key in ("name", "address"))
                port = int(arguments.get("port", "40000"))
                return client.connect(client_name or b"client.example", address or b"203.0.113.5", port, **told)
            case "helo":
                return client.helo(octets(rest))
            case "mail":
                sender, *parameters = octets(rest).split(b" ") if rest else [b""]
                return client.mail(sender, *parameters, macros=self._macros)
            case "rcpt":
                return client.rcpt(octets(rest), self._macros)
            case "many":
                count, pattern = rest.split()
                answers = [client.rcpt(octets(pattern.replace("#", str(number)))) for number in range(int(count))]
                return answers[-1]
            case "data":
                return client.data(octets(rest) or b"4QUEUE1D")
            case "header":
                field_name, _, field_value = octets(rest).partition(b":")
                return client.event(Command.HEADER, encode_strings(Command.HEADER, (field_name, field_value)), {})
            case "body":
                return client.event(Command.BODY, packet(Command.BODY, octets(rest)))
            case "fill":
                return client.content((), b"x" * int(rest))
            case "endheader":
                return client.event(Command.END_OF_HEADER, packet(Command.END_OF_HEADER))
            case "end":
                return client.end_of_message(octets(rest) or b"4QUEUE1D")
            case "abort":
                client.abort()
                return None
            case "raw":
                client.send(octets(rest))
                return client.answer()
        raise ValueError(f"no such event: {words}")

    @staticmethod
    def _check_agreed(client: MilterClient, names: str) -> None:
        for name in names.split():
            absent = name.startswith("!")
            found = Protocol[name.removeprefix("!")] in client.agreed.protocol
            assert found is not absent, f"{name}: {client.agreed.protocol!r}"

    def _check_seen(self, step: Step, rest: str) -> None:
        name, _, pairs = rest.partition(" ")
        envelope, message = self.world.handlers[name].calls[-1]
        session = envelope.session
        facts = {
            "sender": envelope.sender.text,
            "recipients": ",".join(each.text for each in envelope.recipients),
            "queue_id": envelope.queue_id,
            "traffic": str(envelope.traffic),
            "size": str(envelope.declared_size),
            "client": str(session.client_address),
            "name": session.client_name,
            "ptr": session.client_ptr,
            "port": str(session.client_port),
            "helo": session.helo,
            "user": session.auth_user,
            "server": session.server_name,
            "local": str(session.submitted_locally),
            "header": show(message.header()) if message else "",
            "body": show(message.body.read()) if message else "",
        }
        key, _, value = pairs.partition("=")
        got = facts[key]
        if key not in ("header", "body"):
            got = show(got.encode("utf-8", "surrogateescape"))
        assert got == value, f"line {step.number}: {step.words}"


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    return listener
