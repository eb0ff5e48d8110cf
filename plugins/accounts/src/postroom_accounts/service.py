"""The service as the core knows it: commands and a diagnosis; `directory.open_directory` answers for mail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from postroom.hookspecs import Diagnosis, DirectoryUnavailable, FindingLevel, Services, hookimpl

if TYPE_CHECKING:
    import click

SUBJECT = "accounts"
PROBES = 5
SLOW = 0.05
"""Seconds; every recipient waits for one answer."""


class AccountsService:
    """An extension: it sees no mail."""

    @hookimpl
    def commands(self) -> click.Command:
        from postroom_accounts.commands.accounts import accounts

        return accounts

    @hookimpl
    def diagnose(self, services: Services) -> Iterator[Diagnosis]:
        from postroom_accounts.database import open_reader

        if services.config.directory.provider != "accounts":
            text = "installed, but not who answers for mail"
            yield Diagnosis(
                FindingLevel.WARNING, SUBJECT, text, 'set [directory] provider = "accounts", or uninstall it'
            )
            return
        reader = open_reader(services.config)
        seconds = []
        try:
            for _ in range(PROBES):
                begun = services.clock.monotonic()
                reader.generation()
                seconds.append(services.clock.monotonic() - begun)
        except DirectoryUnavailable as error:
            text, _, remedy = str(error).partition("; ")
            yield Diagnosis(FindingLevel.ERROR, SUBJECT, f"{text}: all mail is deferred", remedy or "see [directory]")
            return
        finally:
            reader.close()
        median = sorted(seconds)[PROBES // 2]
        level, remedy = (FindingLevel.WARNING, "put it nearer") if median > SLOW else (FindingLevel.OK, "")
        yield Diagnosis(level, SUBJECT, f"{reader.place} answers in {median * 1000:.1f} ms", remedy)
        yield from _contents(services)


def _contents(services: Services) -> Iterator[Diagnosis]:
    """What is in it, and whether it can be what somebody means."""
    from postroom_accounts.store.accounts import Accounts

    with Accounts.open(services.config, create=False) as accounts:
        domains, mailboxes, aliases = accounts.domains.all(), accounts.mailboxes.all(), accounts.targets.all(alias=True)
    text = f"{len(domains)} domains, {len(mailboxes)} mailboxes, {len(aliases)} aliases"
    yield Diagnosis(FindingLevel.OK, SUBJECT, text)
    used = {each.address.rpartition("@")[2] for each in mailboxes} | {each.rpartition("@")[2] for each in aliases}
    for domain in domains:
        if domain.name not in used:
            remedy = f"add mailboxes, or remove it: postroom accounts domain remove {domain.name}"
            yield Diagnosis(FindingLevel.WARNING, SUBJECT, f"nobody in {domain.name} can get mail", remedy)
    ours = {each.name for each in domains}
    there = {each.address for each in mailboxes} | set(aliases)
    for address, targets in aliases.items():
        for target in targets:
            domain_name = target.rpartition("@")[2]
            if domain_name in ours and target not in there and f"@{domain_name}" not in aliases:
                delimiter = services.config.host.recipient_delimiter
                if delimiter and delimiter in target.partition("@")[0]:
                    continue
                remedy = f"add the mailbox, or: postroom accounts alias remove {address} {target}"
                yield Diagnosis(
                    FindingLevel.WARNING, SUBJECT, f"alias {address} leads to {target}, who is nobody", remedy
                )


service = AccountsService()
