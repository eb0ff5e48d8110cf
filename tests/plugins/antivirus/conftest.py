"""Desks whose scanners are the real clamd, and the real c-icap in place of Dr.Web and Kaspersky."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plugins.antivirus.scanners import LOOPBACK, Desk
from postroom.config import SocketAddress
from postroom.testing.cicap import CIcapInstance
from postroom.testing.clamd import ClamdInstance
from postroom_antivirus.settings import Protocol

MakeDesk = Callable[..., Desk]


@pytest.fixture(params=["clamd unix", "clamd inet", "drweb clamd", "drweb icap", "kaspersky icap"])
def make_desk(request: pytest.FixtureRequest, tmp_path: Path, clamd: ClamdInstance) -> MakeDesk:
    """A function that opens a desk before a real scanner, by each way that there is to one."""

    def make(**settings: Any) -> Desk:
        inet = SocketAddress("inet", LOOPBACK, clamd.port)
        match request.param:
            case "clamd unix":
                return Desk("clamav", tmp_path, SocketAddress("unix", path=str(clamd.socket)), **settings)
            case "clamd inet":
                return Desk("clamav", tmp_path, inet, **settings)
            case "drweb clamd":
                return Desk("drweb", tmp_path, inet, **{"protocol": Protocol.CLAMD, **settings})
        cicap: CIcapInstance = request.getfixturevalue("cicap")
        name = request.param.split()[0]
        return Desk(name, tmp_path, SocketAddress("inet", LOOPBACK, cicap.port), **settings)

    return make
