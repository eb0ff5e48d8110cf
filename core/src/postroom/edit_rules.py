"""What may not be asked for: an edit that would break the mail's structure, whoever made it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from postroom.mail import (
    AddField,
    AddRecipient,
    AuthenticationResult,
    FileInto,
    InsertField,
    RemoveField,
    RemoveRecipient,
    ReplaceBody,
    ReplaceField,
    ReplaceMessage,
    ReplaceSender,
    is_folder_name,
)
from postroom.registration import Stage

_NAME = re.compile(rb"[!-9;-~]+")  # RFC 5322 2.2: printable US-ASCII but ":"
_BREAKS_OUT = re.compile(rb"\r\n(?![ \t])|\r(?!\n)|(?<!\r)\n|\0")  # a line end that starts another field, or the body
_TOKEN = re.compile(r"[A-Za-z0-9_.-]+")


def check_edits(edits: Iterable[object], stage: Stage) -> str:
    """Why the first bad edit cannot be made at that stage; empty when all can."""
    for edit in edits:
        if isinstance(edit, FileInto) and stage is not Stage.BEFORE_LOCAL:
            return f"asked for the folder {edit.folder!r} at {stage}: only {Stage.BEFORE_LOCAL} has mailboxes"
        if problem := _problem(edit):
            return problem
    return ""


def _problem(edit: object) -> str:
    match edit:
        case AddField(name, value) | InsertField(name, value) | ReplaceField(name, value):
            if not _NAME.fullmatch(name):
                return f"asked for a header field with the name {name!r}"
            if _BREAKS_OUT.search(value):
                return f"asked for a header field {name.decode()} whose value has a line end that is no fold"
            return ""
        case RemoveField(name):
            plain = name.rstrip(b" \t")  # as it came: forgers, too, put blanks before the colon (RFC 5322 4.5)
            return "" if _NAME.fullmatch(plain) else f"asked to remove a header field with the name {name!r}"
        case AuthenticationResult():
            return _authentication_problem(edit)
        case AddRecipient(address) | RemoveRecipient(address) | ReplaceSender(address):
            if any(ord(character) < 33 or character in "<>" for character in address.text) and '"' not in address.text:
                return f"asked for the address {address.text!r}"
            return ""
        case FileInto(folder):
            return "" if is_folder_name(folder) else f"asked for the folder {folder!r}"
        case ReplaceBody() | ReplaceMessage():
            return ""
        case _:
            return f"asked for {type(edit).__name__}, which is no edit"


def _authentication_problem(edit: AuthenticationResult) -> str:
    if not _TOKEN.fullmatch(edit.method) or not _TOKEN.fullmatch(edit.result):
        return f"asked for an authentication result {edit.method!r}={edit.result!r}"
    for name, _ in edit.properties:
        ptype, dot, rest = name.partition(".")
        if not dot or not _TOKEN.fullmatch(ptype) or not _TOKEN.fullmatch(rest):
            return f"asked for an authentication result with the property {name!r}"
    return ""
