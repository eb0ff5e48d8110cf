"""`postroom manual`: manual pages out of the commands themselves, those of installed plugins included."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from postroom.cli.compose import Environment

SECTION = 1
STATUS = (
    ("0", "done"),
    ("1", "the answer is no, or something is wrong"),
    ("2", "wrong usage, or the configuration is wrong"),
    ("75", "try again"),
)
SEE_ALSO = "The documents in docs/ say more; every command takes --help."


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.pass_context
def manual(context: click.Context, directory: Path) -> None:
    """Write a manual page for each command into DIR.

    \b
    Examples:
      postroom manual /usr/local/share/man/man1
      postroom manual . && man ./postroom-queue.1

    Commands of plugins get theirs, too: write them again when a plugin was installed.
    """
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    environment = root.obj if isinstance(root.obj, Environment) else Environment()
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, text in (*pages(root.command, environment), *other_pages()):
        (directory / f"{name}.{SECTION}").write_text(text)
        count += 1
    click.echo(f"{count} pages in {directory}")


def pages(group: click.Group, environment: Environment) -> Iterator[tuple[str, str]]:
    """(name, page) of `postroom` and of each command in it; a group's page has a section for each of its commands."""
    root = click.Context(group, info_name="postroom", obj=environment)
    names = group.list_commands(root)
    commands = {name: found for name in names if (found := group.get_command(root, name)) is not None}
    listed = [(f"postroom-{name}({SECTION})", found.get_short_help_str(200)) for name, found in commands.items()]
    yield "postroom", _page(group, root, [_section("COMMANDS", _definitions(listed))])
    for name, command in commands.items():
        context = click.Context(command, info_name=name, parent=root)
        yield f"postroom-{name}", _page(command, context, list(_subcommands(command, context)))


def other_pages() -> Iterator[tuple[str, str]]:
    """The programs beside `postroom`, which know nothing of click."""
    from postroom.cli.mail_handlers_control import NAME, make_parser

    parser = make_parser()
    options = [
        ("/".join(each.option_strings) + (f" {each.metavar}" if isinstance(each.metavar, str) else ""), each.help or "")
        for each in parser._actions  # argparse lends them to nobody
    ]
    usage = parser.format_usage().removeprefix("usage: ")
    about = "Has the options and the two table forms of the reference. `postroom handlers` does the same, and more."
    yield NAME, _plain_page(NAME, parser.description or "", usage, about, options, STATUS)
    yield DELIVER, _plain_page(DELIVER, *_DELIVER)


DELIVER = "postroom-deliver"
_DELIVER = (
    "hand a mail from pipe(8) to the server for local delivery",
    "postroom-deliver -f SENDER -d RECIPIENT [-d RECIPIENT]... [OPTION VALUE]...",
    "Reads the mail from standard input. Postfix' pipe(8) starts it where `postroom postfix install --local pipe` was "
    "said. When something is wrong it prints one line that begins with an enhanced status code.",
    [
        ("-f SENDER", "the envelope's sender; empty for the null sender"),
        ("-d RECIPIENT", "who gets it; repeatable"),
        ("-p ROOT", "taken for the reference's sake; [delivery] root says where mailboxes are"),
        ("--queue-id ID", "Postfix' name for the mail"),
        ("--client-address, --client-name, --client-port, --client-helo VALUE", "the client that the mail came from"),
        ("--sasl-username NAME", "who had logged in"),
        ("--original-recipient ADDRESS", "before aliases"),
        ("--socket SOCKET", "the LMTP server: /path, inet:HOST:PORT or inet6:[HOST]:PORT; else $POSTROOM_LMTP"),
    ],
    (
        ("0", "delivered, or taken over by a handler"),
        ("67", "there is no such mailbox"),
        ("69, 77", "refused for good"),
        ("75", "try again: the server is not there, or says so"),
    ),
)


def _plain_page(
    name: str,
    summary: str,
    usage: str,
    about: str,
    options: Sequence[tuple[str, str]],
    statuses: Sequence[tuple[str, str]],
) -> str:
    summary = summary[:1].lower() + summary[1:].rstrip(".")
    parts = [
        f'.TH "{_escape(name.upper())}" {SECTION} "" "postroom" "Postroom"\n.nh',
        _section("NAME", f"{_escape(name)} \\- {_escape(summary)}"),
        _section("SYNOPSIS", f".B {_escape(' '.join(usage.split()))}"),
        _section("DESCRIPTION", _text(about)),
        _section("OPTIONS", _definitions(options)),
        _section("EXIT STATUS", _definitions(statuses)),
        _section("SEE ALSO", _escape(f"postroom({SECTION})")),
    ]
    return "\n".join(parts) + "\n"


def _page(command: click.Command, context: click.Context, more: list[str]) -> str:
    name = context.command_path.replace(" ", "-")
    summary = command.get_short_help_str(200).rstrip(".")
    parts = [
        f'.TH "{_escape(name.upper())}" {SECTION} "" "postroom" "Postroom"\n.nh',
        _section("NAME", f"{_escape(name)} \\- {_escape(summary)}"),
        _section("SYNOPSIS", f".B {_escape(_usage(command, context))}"),
        _section("DESCRIPTION", _text(command.help or summary)),
        *([_section("OPTIONS", _definitions(options))] if (options := _options(command, context)) else []),
        *more,
        _section("EXIT STATUS", _definitions(STATUS)),
        _section("SEE ALSO", _escape(SEE_ALSO)),
    ]
    return "\n".join(parts) + "\n"


def _subcommands(command: click.Command, context: click.Context) -> Iterator[str]:
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is None:
            continue
        below = click.Context(inner, info_name=name, parent=context)
        text = f".B {_escape(_usage(inner, below))}\n.PP\n{_text(inner.help or inner.get_short_help_str(200))}"
        if options := _options(inner, below):
            text += f"\n{_definitions(options)}"
        yield _section(below.command_path.upper(), text)
        yield from _subcommands(inner, below)


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    return [record for record in records if record is not None]


def _section(title: str, text: str) -> str:
    return f'.SH "{_escape(title)}"\n{text}'


def _definitions(found: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f".TP\n.B {_breakable(term)}\n{_escape(' '.join(text.split()))}" for term, text in found)


def _breakable(term: str) -> str:
    """A long list of choices has no blank where a line may end."""
    return _escape(term).replace("|", "|\\:")


def _text(help_text: str) -> str:
    """Paragraphs; those after click's `\\b` keep their lines."""
    parts = []
    for paragraph in textwrap.dedent(help_text).strip().split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            kept = "\n".join(_escape(line) for line in lines[1:])
            parts.append(f".PP\n.nf\n{kept}\n.fi")
        elif lines:
            parts.append(f".PP\n{_escape(' '.join(line.strip() for line in lines))}")
    return "\n".join(parts)


def _escape(text: str) -> str:
    """Text as roff takes it: no line of it begins a request (roff(7))."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    text = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in text)
    return f"\\&{text}" if text[:1] in (".", "'") else text
