"""What `postroom doctor` says of the autoresponder."""

from __future__ import annotations

import dataclasses

import pytest
from plugins.autoresponder.responding import BOB, Console, Desk
from postroom.authentication_results import FINDING
from postroom.config import ReinjectSettings
from postroom.hookspecs import Diagnosis, FindingLevel
from postroom.testing import FakeServices
from postroom.testing.ports import free_port
from postroom.testing.sink import SinkServer
from postroom_autoresponder.backends import open_store
from postroom_autoresponder.handler import AutoresponderHandler
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.store import StoredResponder


def look(services: FakeServices, to: str = "/bin/true") -> list[Diagnosis]:
    services.config = dataclasses.replace(services.config, reinject=ReinjectSettings(to=to))
    return list(AutoresponderHandler().diagnose(AutoresponderSettings(), services))


def bad(found: list[Diagnosis]) -> list[Diagnosis]:
    return [each for each in found if each.level is not FindingLevel.OK]


def test_all_is_well(services: FakeServices, console: Console, sink: SinkServer) -> None:
    console.set()
    found = look(services, f"smtp:127.0.0.1:{sink.port}")
    assert not bad(found)
    assert any("1 responders" in each.text for each in found)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "cannot be read"),
        ('{"text":"$5"}', "$$"),
        ('{"text":"x","time_zone":"No/Zone"}', "is no time zone"),
        ('{"text":"x","start":"soon"}', "is no date"),
    ],
)
def test_a_responder_that_would_not_work_is_named(services: FakeServices, document: str, says: str) -> None:
    open_store(services.state).replace_responder(BOB, "", StoredResponder("v1", document))
    (found,) = bad(look(services))
    assert BOB in found.subject
    assert says in found.text
    assert found.remedy


@pytest.mark.parametrize("to", ["/no/such/program", "smtp:127.0.0.1:{port}"])
def test_a_way_out_that_is_not_there_is_named(here: FakeServices, to: str) -> None:
    (found,) = bad(look(here, to.format(port=free_port())))
    assert found.level is FindingLevel.ERROR
    assert "replies cannot be sent" in found.text


def test_that_nobody_vouches_for_anybody_is_named(services: FakeServices, console: Console, desk: Desk) -> None:
    console.set()
    del services.findings[FINDING]
    desk.receive()
    (found,) = bad(look(services))
    assert "nobody vouches" in found.text
