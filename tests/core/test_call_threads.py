"""A call has a deadline; one that overruns is left behind and does not come back as somebody else's answer."""

from __future__ import annotations

import functools
import threading
import time

import pytest
from postroom import call_threads
from postroom.call_threads import CallThreads
from postroom.failure import FailureKind, HandlerFailed


def test_results_and_exceptions_come_back() -> None:
    threads = CallThreads()
    assert threads.call(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        threads.call(lambda: 1 // 0, 5)
    with pytest.raises(SystemExit):
        threads.call(lambda: exec("raise SystemExit"), 5)
    assert threads.call(lambda: 8, 5) == 8
    threads.close()


def test_an_overrun_is_left_behind_and_its_late_answer_is_lost() -> None:
    threads, gate, finished = CallThreads(), threading.Event(), threading.Event()

    def hang() -> str:
        gate.wait(10)
        finished.set()
        return "late"

    with pytest.raises(HandlerFailed) as caught:
        threads.call(hang, 0.01)
    assert caught.value.kind is FailureKind.TIMEOUT
    assert threads.left_behind == 1
    assert threads.call(lambda: "next", 5) == "next"
    gate.set()
    assert finished.wait(5)
    assert [threads.call(functools.partial(int, number), 5) for number in range(3)] == [0, 1, 2]
    until = time.monotonic() + 5
    while threads.left_behind and time.monotonic() < until:
        threads.call(lambda: None, 5)  # gives the late thread its turn
    assert threads.left_behind == 0
    threads.close()


def test_how_many_are_left_behind_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_threads, "MAX_LEFT_BEHIND", 2)
    threads, gate = CallThreads(), threading.Event()
    for _ in range(2):
        with pytest.raises(HandlerFailed):
            threads.call(lambda: gate.wait(10), 0.01)
    with pytest.raises(HandlerFailed, match="2 earlier calls still hang"):
        threads.call(lambda: 1, 5)
    gate.set()
    threads.close()


def test_many_calls_at_once_each_get_their_own_answer() -> None:
    threads = CallThreads()
    wrong: list[tuple[int, int]] = []

    def ask(number: int) -> None:
        for turn in range(200):
            expected = number * 1000 + turn
            if threads.call(functools.partial(int, expected), 5) != expected:
                wrong.append((number, turn))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert wrong == []
    threads.close()
