"""Every case file through a session in this process, the native engine, and libmilter."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from dialogues.conversation import MakeClient, Player, listen, read_case
from dialogues.engines import address_of, in_process, native
from dialogues.scripted import World
from postroom.config import Config, SocketAddress
from postroom.fronts.milter.client import MilterClient
from postroom.fronts.milter.session import Session
from postroom.testing import RecordingLogger

CASES = sorted((Path(__file__).parent / "cases").glob("*.txt"))


@dataclass
class SharedLibmilter:
    """libmilter runs once in a process: one engine, whose sessions are those of the test that runs now."""

    address: SocketAddress
    world: World | None = None

    def make_session(self) -> Session:
        assert self.world is not None
        return self.world.make_session()

    @contextmanager
    def client(self, world: World) -> Iterator[MilterClient]:
        self.world = world
        with MilterClient.open(self.address) as client:
            yield client


@pytest.fixture(scope="session")
def libmilter() -> Iterator[SharedLibmilter]:
    if sys.version_info >= (3, 14):
        pytest.skip("libmilter dies under Python 3.14")
    module = pytest.importorskip("postroom.fronts.milter.libmilter", exc_type=ImportError)
    with listen() as listener:
        shared = SharedLibmilter(address_of(listener))
        engine = module.LibmilterEngine([listener], shared.make_session, Config(), RecordingLogger())
        thread = threading.Thread(target=engine.run, name="engine")
        thread.start()
        yield shared
        engine.drain(5.0)
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("engine", ["session", "native", "libmilter"])
def test_dialogue(case: Path, engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    steps = read_case(case)
    if any(step.words == f"not-for {engine}" for step in steps):
        pytest.skip(f"not for {engine}; the case says why")
    make: MakeClient
    match engine:
        case "session":
            make = in_process
        case "native":
            make = native
        case _:
            make = request.getfixturevalue("libmilter").client
    Player(steps, tmp_path, make, libmilter=engine == "libmilter").play()


def test_there_are_cases() -> None:
    assert len(CASES) >= 20
