"""What enabled handlers have to see of a mail, so that a front asks the mail server for no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from postroom.hookspecs import Need
from postroom.plugins import Handlers
from postroom.registration import Stage

Kinds = frozenset[tuple[str, Stage, str]]
"""(handler, stage, executable)."""

_ORDER = (Need.ENVELOPE, Need.HEADERS, Need.BODY)


@dataclass(frozen=True)
class Demand:
    """What the enabled handlers have to see, by stage; a stage that is not there has nothing enabled."""

    needs: Mapping[Stage, Need] = field(default_factory=dict)

    def wants(self, stage: Stage) -> bool:
        return stage in self.needs

    @property
    def headers(self) -> bool:
        """Whether a front that sees the mail pass by must look at its header.

        A handler at before-local that reads the header may trust results of earlier stages: a front that sees the
        mail first has to take forged ones out (RFC 8601 5).
        """
        early = (self.needs.get(stage, Need.ENVELOPE) for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE))
        return any(need is not Need.ENVELOPE for need in early) or (
            self.needs.get(Stage.BEFORE_LOCAL, Need.ENVELOPE) is not Need.ENVELOPE
        )

    @property
    def body(self) -> bool:
        return any(self.needs.get(stage) is Need.BODY for stage in (Stage.BEFORE_QUEUE, Stage.BEFORE_REMOTE))


def demand_of(kinds: Kinds, handlers: Handlers) -> Demand:
    needs: dict[Stage, Need] = {}
    for name, stage, executable in kinds:
        handler = None if executable else handlers.get(name)
        need = Need.BODY if executable else handler.info.needs if handler else Need.ENVELOPE
        if stage is Stage.BEFORE_DATA:
            need = Need.ENVELOPE
        needs[stage] = max(need, needs.get(stage, Need.ENVELOPE), key=_ORDER.index)
    return Demand(needs)
