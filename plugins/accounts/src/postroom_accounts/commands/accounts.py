"""`postroom accounts`: where its groups meet."""

from __future__ import annotations

import click

from postroom_accounts.commands.domains import domain_group
from postroom_accounts.commands.files import export_, import_command
from postroom_accounts.commands.logins import auth, password
from postroom_accounts.commands.mailboxes import mailbox_group
from postroom_accounts.commands.routes import GROUPS
from postroom_accounts.commands.targets import alias_group, forward_group, resolve


@click.group("accounts")
def accounts() -> None:
    """Domains, mailboxes, aliases, forwards, limits and passwords of this host's users.

    \b
    Examples:
      postroom accounts domain add example.org --quota 2G
      postroom accounts mailbox add bob@example.org
      postroom accounts password bob@example.org
      postroom accounts alias add info@example.org bob@example.org ann@example.org
    """


for _command in (domain_group, mailbox_group, alias_group, forward_group, *GROUPS, password, auth):
    accounts.add_command(_command)
for _command in (export_, import_command, resolve):
    accounts.add_command(_command)
