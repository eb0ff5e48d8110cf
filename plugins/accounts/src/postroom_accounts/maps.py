"""Pure: the directory as the maps of Postfix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from postroom_accounts.records import Account, Domain, Route, command_addresses

FILES = {
    Route.TRANSPORT: "transport",
    Route.SENDER_TRANSPORT: "sdd_transport_maps",
    Route.BLACKLIST: "blacklists",
}


def postfix_maps(
    domains: Iterable[Domain],
    mailboxes: Iterable[Account],
    aliases: Mapping[str, Sequence[str]],
    forwards: Mapping[str, Sequence[str]],
    lists: Mapping[str, str],
    routes: Mapping[Route, Mapping[str, str]],
) -> dict[str, dict[str, str]]:
    """Keys to values by file; what is disabled is not there."""
    mailboxes = list(mailboxes)
    enabled = {domain.name for domain in domains if domain.enabled}
    boxes = [each for each in mailboxes if each.enabled and _domain(each.address) in enabled]
    known = {each.address for each in boxes}
    taken = {each.address for each in mailboxes} | set(aliases)
    for address in lists:
        if _domain(address) in enabled:
            known |= {address, *(each for each in command_addresses(address) if each not in taken)}
    virtual = {address: ", ".join(targets) for address, targets in aliases.items() if _domain(address) in enabled}
    for box in boxes:
        targets = forwards.get(box.address, ())
        if targets:
            virtual[box.address] = ", ".join([*([box.address] if box.keep_copy else []), *targets])
        elif f"@{_domain(box.address)}" in aliases:
            virtual[box.address] = box.address  # or the alias for everybody would take its mail (virtual(5))
    listed = {each for each in known if not each.startswith("@")} - {each.address for each in boxes}
    virtual |= {each: each for each in listed if f"@{_domain(each)}" in aliases}
    return {
        "virtual_domains": dict.fromkeys(enabled, "postroom"),
        "vmailbox": {address: _place(address) for address in known},
        "virtual": virtual,
        **{FILES[which]: dict(rows) for which, rows in routes.items() if rows},  # else a hand-written one may stay
    }


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _place(address: str) -> str:
    """Where Postfix' own virtual(8) would put mail; our transport only asks whether the key is there."""
    user, _, domain = address.rpartition("@")
    return f"{domain}/{user or '@'}/Maildir/"
