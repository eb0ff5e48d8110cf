"""The RFC 7208 suite, and pyspf's own, through the handler: result and explanation of every case."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.spf.spf_suite import Case, ZoneResolver, read_suite
from postroom.mail import InsertField
from postroom.testing import FakeServices, envelope, message
from postroom.verdict import Action
from postroom_spf.handler import SpfHandler
from postroom_spf.result import SpfFinding
from postroom_spf.settings import Level, SpfSettings

RFC7208 = list(read_suite("rfc7208-tests.yml"))
PYSPF = [case for case in read_suite("pyspf-tests.yml") if case.strict == 1]  # the others are about its lax mode


def evaluate(case: Case, services: FakeServices) -> SpfFinding:
    services.dns = ZoneResolver(case.zonedata)
    settings = SpfSettings(level=Level.RECORD, explanation="DEFAULT")
    mail = envelope(case.sender, client=case.client, helo=case.helo)
    verdict = SpfHandler().before_queue(mail, message(), settings, services)
    assert verdict.action is Action.PASS
    assert isinstance(verdict.finding, SpfFinding)
    field = verdict.edits[0]
    assert isinstance(field, InsertField)
    assert field.value.startswith(f" {verdict.finding.result} ".encode())
    return verdict.finding


def test_the_suite_is_whole() -> None:
    assert len(RFC7208) == 203


@pytest.mark.parametrize("case", RFC7208, ids=lambda case: case.name)
def test_rfc7208(case: Case, tmp_path: Path) -> None:
    finding = evaluate(case, FakeServices(tmp_path))
    assert finding.result in case.results
    if case.explanation is not None:
        assert finding.explanation == case.explanation


@pytest.mark.parametrize("case", PYSPF, ids=lambda case: case.name)
def test_pyspf_cases(case: Case, tmp_path: Path) -> None:
    assert evaluate(case, FakeServices(tmp_path)).result in case.results
