"""The one `Authentication-Results` field of ours (RFC 8601): the milter front's, joined by what is new here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from postroom.authentication_results import FINDING, NAME, Results, claims, format_value, parse_value
from postroom.mail import AuthenticationResult, Edit, Field, Message


class Authentication:
    """One mail's results. `trusted` is the mail less the fields that claim our name and are not ours.

    Ours stand above every Received: the milter front puts them over the one that our mail server writes, and
    whatever came from outside is below that (RFC 8601 5). A mail server that puts more on top later says so with
    `own_hops`.
    """

    def __init__(self, authserv_id: str, message: Message, own_hops: int = 0) -> None:
        self._authserv_id = authserv_id
        self.results: tuple[AuthenticationResult, ...] = ()
        fields: list[Field] = []
        hops = 0
        for found in message.fields:
            name = found.name.strip().lower()
            if name == b"received":
                hops += 1
            if name == b"authentication-results" and claims(found.value, authserv_id):
                parsed = parse_value(found.value) if hops <= own_hops else None
                if parsed is None:
                    continue
                self.results += parsed.results
            fields.append(found)
        unchanged = len(fields) == len(message.fields)
        self.trusted = message if unchanged else dataclasses.replace(message, fields=tuple(fields))

    @property
    def findings(self) -> Mapping[str, Any]:
        return {FINDING: Results(self._authserv_id, self.results)} if self.results else {}

    def written(self, message: Message, edits: Iterable[Edit]) -> Message:
        """The mail with all results in one field at the top, when handlers here have new ones."""
        new = [edit for edit in edits if isinstance(edit, AuthenticationResult) and edit not in self.results]
        if not new:
            return message
        value = format_value(self._authserv_id, (*self.results, *new))
        others = tuple(
            found
            for found in message.fields
            if found.name.strip().lower() != b"authentication-results" or not claims(found.value, self._authserv_id)
        )
        return dataclasses.replace(message, fields=(Field(NAME, value), *others))
