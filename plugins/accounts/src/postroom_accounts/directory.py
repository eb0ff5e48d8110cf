"""Answers mail's questions: is this address ours, which mailbox is it, where does its mail end up."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from postroom.config import Config
from postroom.hookspecs import Mailbox
from postroom.mail import Address

from postroom_accounts.database import Reader, Row, SqliteReader, open_reader
from postroom_accounts.records import MAX_TARGETS, Account, Domain, list_of

MAX_CACHED = 20_000
"""Addresses that a process remembers, some 20 MB at most."""
FRESH = 1.0
"""Seconds for which a server's answer is taken without asking whether something has changed since."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that the directory holds of one address."""

    domain: Domain | None = None
    account: Account | None = None
    targets: tuple[str, ...] = ()  # of the alias, or of the mailbox that forwards
    alias: bool = False
    next_hop: str = ""  # of the list


class _Seen(threading.local):
    """What this thread saw last: SQLite's `data_version` is a connection's own number."""

    def __init__(self) -> None:
        self.stamp: object = None


class AccountsDirectory:
    """Implements hookspecs.Directory. Thread-safe, and safe after a fork."""

    authoritative = True

    def __init__(self, reader: Reader, config: Config, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.reader = reader
        self._root, self._delimiter = config.delivery.root, config.host.recipient_delimiter
        self._fresh = 0.0 if isinstance(reader, SqliteReader) else FRESH
        self._monotonic = monotonic
        self._config = config
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._generation = -1
        self._origin: object = None
        self._asked = float("-inf")
        self._seen = _Seen()

    def is_local(self, address: Address) -> bool | None:
        return bool(address.domain) and self.known(address).domain is not None

    def mailbox(self, address: Address) -> Mailbox | None:
        known = self.known(address)
        if known.next_hop and known.domain is not None:
            return Mailbox(
                Address(address.without_tag(self._delimiter)), enabled=known.domain.enabled, next_hop=known.next_hop
            )
        if known.account is None or known.domain is None:
            return None
        return self.mailbox_of(known.account, known.domain)

    def mailbox_of(self, account: Account, domain: Domain) -> Mailbox:
        user = account.address.rpartition("@")[0]
        return Mailbox(
            address=Address(account.address),
            maildir=account.maildir or str(self._root / domain.name / user / "Maildir"),
            quota=_limit(account.quota, domain.quota),
            languages=account.languages,
            message_limit=_limit(account.message_limit, domain.message_limit),
            enabled=account.enabled and domain.enabled,
        )

    def expand(self, address: Address) -> tuple[Address, ...]:
        """Depth first, in the order of the targets; each address once; loops end, at MAX_TARGETS at the latest."""
        found: dict[str, Address] = {}
        waiting, seen = [address], set[str]()
        while waiting and len(found) < MAX_TARGETS and len(seen) < 2 * MAX_TARGETS:
            at = waiting.pop()
            if at.key in seen:
                continue
            seen.add(at.key)
            known = self.known(at)
            enabled = known.domain is not None and known.domain.enabled
            stays = not (enabled and known.targets) or (not known.alias and known.account and known.account.keep_copy)
            if stays:
                found.setdefault(at.key, at)
            if enabled:
                waiting += [Address(target) for target in reversed(known.targets)]
        return tuple(found.values()) or (address,)

    def mailboxes(self) -> Iterator[Mailbox]:
        from postroom_accounts.store.accounts import Accounts  # SQLAlchemy: mail never needs it on SQLite

        with Accounts.open(self._config, create=False) as accounts:
            with accounts.change():  # else a domain may come between the two
                domains = {domain.name: domain for domain in accounts.domains.all()}
                found = accounts.mailboxes.all()
            for account in found:
                yield self.mailbox_of(account, domains[account.address.rpartition("@")[2]])

    def maps(self) -> dict[str, dict[str, str]]:
        """Implements hookspecs.MapSource."""
        from postroom_accounts.maps import postfix_maps
        from postroom_accounts.store.accounts import Accounts

        with Accounts.open(self._config, create=False) as accounts, accounts.change():
            targets = (accounts.targets.all(alias=True), accounts.targets.all(alias=False))
            lists, routes = accounts.lists.all(), accounts.routes.all()
            return postfix_maps(accounts.domains.all(), accounts.mailboxes.all(), *targets, lists, routes)

    def logins(self) -> str:
        """Hashes for SCRAM, which also serve a password that comes as it is."""
        from postroom_accounts.passwords import SCRAM_SCHEME
        from postroom_accounts.store.accounts import Accounts
        from postroom_accounts.transfer import passwd_file

        with Accounts.open(self._config, create=False) as accounts:
            return passwd_file(accounts, SCRAM_SCHEME)

    def known(self, address: Address) -> Known:
        """From memory when nothing has changed since it was read."""
        if not address.domain or not _storable(address.key):
            return Known()
        keys = (address.key, address.without_tag(self._delimiter))
        self._forget_what_changed()
        with self._lock:
            found = self._kept.get(keys)
            if found is not None:
                self._kept.move_to_end(keys)
                return found
        key, bare = keys
        names = {"key": key, "bare": bare, "domain": address.domain, "everybody": f"@{address.domain}"}
        names["list"] = list_of(bare)
        generation, known = read(self.reader.lookup(names), keys)
        with self._lock:
            same = self.reader.origin() == self._origin
            if same and generation > self._generation:
                self._kept.clear()
                self._generation = generation
            if same and generation == self._generation:
                self._kept[keys] = known
                while len(self._kept) > MAX_CACHED:
                    self._kept.popitem(last=False)
        return known

    def close(self) -> None:
        self.reader.close()

    def _forget_what_changed(self) -> None:
        if self._fresh:
            now = self._monotonic()
            if now - self._asked < self._fresh:
                return
            self._use(self.reader.generation())
            self._asked = now
            return
        stamp = self.reader.stamp()
        if stamp != self._seen.stamp:
            self._use(self.reader.generation())
            self._seen.stamp = stamp

    def _use(self, generation: int) -> None:
        origin = self.reader.origin()
        with self._lock:
            if (generation, origin) != (self._generation, self._origin):  # lower, too: somebody put a backup back
                self._kept.clear()
                self._generation, self._origin = generation, origin


def read(rows: Sequence[Row], keys: tuple[str, str]) -> tuple[int, Known]:
    """Generation and knowledge from the rows of database.LOOKUP. An address with its tag goes before one without, a
    mailbox or an alias before a list's command addresses, and those before the alias or the list of everybody.
    """
    generation, domain = 0, None
    accounts: dict[str, Account] = {}
    targets: dict[str, list[tuple[int, str, bool]]] = {}
    lists: dict[str, str] = {}
    for kind, address, position, enabled, quota, message_limit, text, languages, flag in rows:
        match kind:
            case "g":
                generation = quota
            case "d":
                domain = Domain(address, bool(enabled), quota, message_limit)
            case "m":
                spoken = tuple(languages.split())
                accounts[address] = Account(address, bool(enabled), quota, message_limit, text, spoken, bool(flag))
            case "l":
                lists[address] = text
            case _:
                targets.setdefault(address, []).append((position, text, bool(flag)))
    everybody = f"@{keys[0].rpartition('@')[2]}"
    for key in (*dict.fromkeys(keys), list_of(keys[1]), everybody):
        if domain is not None and key in lists:
            return generation, Known(domain, next_hop=lists[key])
        if domain is not None and (key in accounts or key in targets):
            ordered = sorted(targets.get(key, ()))
            alias = any(flag for _, _, flag in ordered)
            return generation, Known(domain, accounts.get(key), tuple(target for _, target, _ in ordered), alias)
    return generation, Known(domain)


def open_directory(config: Config) -> AccountsDirectory:
    """What entry point `accounts` of group `postroom.directories` names."""
    return AccountsDirectory(open_reader(config), config)


def _limit(own: int | None, general: int | None) -> int | None:
    """0 of its own is "none", whatever the domain says."""
    return (own if own is not None else general) or None


def _storable(text: str) -> bool:
    """Whether a database can hold it: no NUL, and UTF-8 (a raw 8-bit address is not)."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
