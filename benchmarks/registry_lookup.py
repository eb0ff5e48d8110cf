"""What a mail's look-up costs with ten registrations and with a million: `python benchmarks/registry_lookup.py [URL]`.

Without a URL, SQLite in a temporary directory. Exit status 1 when a look-up in the big registry costs twice as much.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

from postroom.registration import Registration, Stage, Type
from postroom.registry import Difference, Registry

SMALL, BIG = 10, 1_000_000
LOOKUPS, ROUNDS = 2000, 5
CHUNK = 50_000
HANDLERS = 5
FLAT = 2.0

Keys = list[tuple[Type, str]]


def registrations(count: int) -> Iterable[Registration]:
    """Three for all mail, the rest for a mailbox each."""
    yield Registration("grey", Stage.BEFORE_DATA, Type.GLOBAL, priority=5, enabled=True)
    yield Registration("spf", Stage.BEFORE_QUEUE, Type.GLOBAL, enabled=True)
    yield Registration("quota", Stage.BEFORE_QUEUE, Type.GLOBAL, enabled=True)
    for number in range(count - 3):
        name, address = f"scan-{number % HANDLERS}", f"user{number}@example.org"
        yield Registration(name, Stage.BEFORE_LOCAL, Type.RECIPIENT, address, enabled=True)


def fill(registry: Registry, count: int) -> float:
    started = time.perf_counter()
    wanted = [Difference(None, registration) for registration in registrations(count)]
    for start in range(0, len(wanted), CHUNK):
        with registry.change("benchmark", "fill") as change:
            change.put(wanted[start : start + CHUNK])
    return time.perf_counter() - started


def microseconds(act: Callable[[], object], times: int = LOOKUPS) -> float:
    """The best round's mean: what else the machine does is not the registry's."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(times):
            act()
        rounds.append((time.perf_counter() - started) / times * 1e6)
    return min(rounds)


def keys(recipients: int) -> Keys:
    found = [(Type.GLOBAL, ""), (Type.SENDER, "alice@sender.example"), (Type.SENDER_DOMAIN, "sender.example")]
    found += [(Type.RECIPIENT, f"user{number}@example.org") for number in range(recipients)]
    return [*found, (Type.RECIPIENT_DOMAIN, "example.org")]


def measure(registry: Registry) -> dict[str, float]:
    stages = [Stage.BEFORE_DATA, Stage.BEFORE_QUEUE]
    one, many = keys(1), keys(10_000)

    def enabled_afresh() -> None:
        registry._enabled = (-1, frozenset())
        registry.enabled()

    return {
        "look-up, one recipient": microseconds(lambda: registry.matching(one, stages)),
        "look-up, 10,000 recipients": microseconds(lambda: registry.matching(many, stages), 1),
        "generation": microseconds(registry.generation),
        "enabled, after a change": microseconds(enabled_afresh, 50),
        "first page of the list": microseconds(lambda: next(registry.list()), 50),
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", nargs="?", help="an empty PostgreSQL database; default: SQLite")
    arguments.add_argument("--big", type=int, default=BIG)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = given.url or f"sqlite:///{directory}/registry.sqlite"
        with Registry.open(url, 60) as registry:
            fill(registry, SMALL)
            small = measure(registry)
            registry.apply([], who="benchmark")
            print(f"filled with {given.big} in {fill(registry, given.big):.1f} s")
            big = measure(registry)
    for name, before in small.items():
        print(
            f"{name:28} {before:10.1f} us with {SMALL:8}  {big[name]:10.1f} us with {given.big}"
            f"  ratio {big[name] / before:.2f}"
        )
    one = "look-up, one recipient"
    return int(big[one] / small[one] > FLAT)


if __name__ == "__main__":
    sys.exit(main())
