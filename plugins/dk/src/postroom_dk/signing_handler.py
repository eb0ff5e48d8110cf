"""What is installed as `dk_sign`: the handler, and the commands that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postroom.hookspecs import hookimpl

from postroom_dk.sign import DkSign

if TYPE_CHECKING:
    import click


class SigningHandler(DkSign):
    @hookimpl
    def commands(self) -> click.Group:
        from postroom_dk.commands import dk  # start-up of the server needs no command line

        return dk


handler = SigningHandler()
