"""What overruns is left behind, and does not come back as somebody else's answer."""

from __future__ import annotations

import functools
import threading
import time

import pytest
from postroom import call_threads
from postroom.call_threads import CallThreads, TooManyLeftBehind


def in_seconds(seconds: float) -> float:
    return time.monotonic() + seconds


def hang(gate: threading.Event) -> None:
    gate.wait(10)


def test_what_is_done_is_done_and_what_is_raised_is_raised() -> None:
    threads = CallThreads()
    done: list[int] = []
    assert threads.run(functools.partial(done.append, 7), lambda: in_seconds(30))
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda: 1 // 0, lambda: in_seconds(30))  # type: ignore[arg-type]  # it never returns
    with pytest.raises(SystemExit):
        threads.run(lambda: exec("raise SystemExit"), lambda: in_seconds(30))
    assert threads.run(functools.partial(done.append, 8), lambda: in_seconds(30))
    assert done == [7, 8]
    threads.close()


def test_an_overrun_is_left_behind_and_its_thread_ends_when_it_comes_back() -> None:
    threads, gate = CallThreads(), threading.Event()
    done: list[str] = []
    end = in_seconds(0.01)
    assert not threads.run(functools.partial(hang, gate), lambda: end)
    assert threads.left_behind == 1
    assert threads.run(functools.partial(done.append, "next"), lambda: in_seconds(30))
    gate.set()
    until = time.monotonic() + 30
    while threads.left_behind and time.monotonic() < until:
        threads.run(lambda: None, lambda: in_seconds(30))  # gives the late thread its turn
    assert threads.left_behind == 0
    assert done == ["next"]
    threads.close()


def test_a_deadline_may_move_while_the_work_goes_on() -> None:
    threads, gate = CallThreads(), threading.Event()
    ends = [in_seconds(1)]  # time enough for the work to begin, on a busy machine too

    def work() -> None:
        first, ends[0] = ends[0], in_seconds(60)
        gate.wait(first - time.monotonic() + 0.1)

    assert threads.run(work, lambda: ends[0])
    threads.close()


def test_a_deadline_may_move_to_an_earlier_time() -> None:
    threads, gate = CallThreads(), threading.Event()
    ends = [in_seconds(600)]

    def work() -> None:
        ends[0] = in_seconds(0)
        gate.wait(20)

    assert not threads.run(work, lambda: ends[0])
    gate.set()
    threads.close()


def test_how_many_are_left_behind_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_threads, "MAX_LEFT_BEHIND", 2)
    threads, gate = CallThreads(), threading.Event()
    for _ in range(2):
        end = in_seconds(0.01)
        assert not threads.run(functools.partial(hang, gate), functools.partial(float, end))
    with pytest.raises(TooManyLeftBehind, match="2 earlier calls still hang"):
        threads.run(lambda: None, lambda: in_seconds(30))
    gate.set()
    threads.close()


def test_many_at_once_do_each_their_own() -> None:
    threads = CallThreads()
    wrong: list[tuple[int, int]] = []

    def ask(number: int) -> None:
        for turn in range(200):
            got: list[int] = []
            assert threads.run(functools.partial(got.append, number * 1000 + turn), lambda: in_seconds(30))
            if got != [number * 1000 + turn]:
                wrong.append((number, turn))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert wrong == []
    threads.close()
