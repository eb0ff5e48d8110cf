"""The published SPF suites as cases: YAML to zones and questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from postroom.hookspecs import Answer, LookupFailed

DATA = Path(__file__).parent / "data"
TIMEOUT = "TIMEOUT"
MAX_ALIASES = 10


class ZoneResolver:
    """DNS as a scenario's zonedata describes it.

    `TIMEOUT` among a name's records: every kind that stands not before it times out. A type 99 record stands for TXT
    too where no TXT is given, `NONE` for none at all. Names that begin with `error.` always time out.
    """

    def __init__(self, zonedata: Mapping[str, Sequence[Any]]) -> None:
        self._zone = {name.lower(): list(_records(entries)) for name, entries in zonedata.items()}

    def lookup(self, name: str, kind: str, timeout: float | None = None) -> Answer:
        for _ in range(MAX_ALIASES):
            known = name.lower().rstrip(".")
            records, alias = self._at(known, kind)
            if records or not alias:
                return Answer(tuple(records), exists=known in self._zone, ttl=60)
            name = alias
        return Answer(exists=True, ttl=60)

    def _at(self, name: str, kind: str) -> tuple[list[Any], str]:
        if name.startswith("error."):
            raise LookupFailed(f"no answer for {name} {kind}")
        found: list[Any] = []
        alias = ""
        for kind_here, value in self._zone.get(name, []):
            if kind_here == TIMEOUT and not found:
                raise LookupFailed(f"no answer for {name} {kind}")
            if kind_here == kind:
                if value == TIMEOUT:
                    raise LookupFailed(f"no answer for {name} {kind}")
                found.append(value)
            elif kind_here == "CNAME":
                alias = value
        return found, alias


def _records(entries: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    has_txt = any(isinstance(entry, dict) and "TXT" in entry for entry in entries)
    for entry in entries:
        if not isinstance(entry, dict):
            yield str(entry), None
            continue
        for kind, value in entry.items():
            if kind in ("TXT", "SPF") and value != TIMEOUT:
                strings = [value] if isinstance(value, str) else value
                if strings == ["NONE"]:
                    continue
                octets = "".join(strings).encode()
                yield kind, octets
                if kind == "SPF" and not has_txt:
                    yield "TXT", octets
            elif kind == "MX" and value != TIMEOUT:
                yield kind, (value[0], value[1].rstrip("."))
            else:
                yield kind, value


@dataclass(frozen=True)
class Case:
    """One test of a suite."""

    name: str
    client: str
    sender: str
    helo: str
    results: tuple[str, ...]
    explanation: str | None
    zonedata: Mapping[str, Sequence[Any]]
    strict: int = 1


def read_suite(name: str) -> Iterator[Case]:
    for scenario in yaml.safe_load_all((DATA / name).read_text()):
        for test, facts in scenario["tests"].items():
            wanted = facts["result"]
            yield Case(
                name=test,
                client=str(facts["host"]),
                sender=facts["mailfrom"] or "",
                helo=facts["helo"],
                results=tuple(wanted) if isinstance(wanted, list) else (wanted,),
                explanation=facts.get("explanation"),
                zonedata=scenario["zonedata"],
                strict=facts.get("strict", 1),
            )
