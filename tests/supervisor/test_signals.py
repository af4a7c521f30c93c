"""Signals through the loop, and past it when something holds it up."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pykrun import signals as module
from pykrun.loop import Loop
from pykrun.signals import HeldUp, Signals


def test_signals_come_through_the_loop_and_handlers_are_put_back() -> None:
    loop, heard = Loop(), []
    before = signal.getsignal(signal.SIGUSR1)

    def handler(number: int) -> None:
        heard.append(number)
        if len(heard) == 2:
            loop.stop()

    signals = Signals(loop, (signal.SIGUSR1, signal.SIGTERM), handler)
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == []
    loop.run()
    signals.close()
    loop.close()
    assert sorted(heard) == sorted([signal.SIGUSR1, signal.SIGTERM])
    assert signal.getsignal(signal.SIGUSR1) is before


def test_what_the_caller_ignored_stays_ignored() -> None:
    loop, heard = Loop(), []
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals(loop, (signal.SIGHUP,), heard.append)
    os.kill(os.getpid(), signal.SIGHUP)
    loop.call_later(0.05, loop.stop)
    loop.run()
    signals.close()
    loop.close()
    assert heard == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, old)


def test_a_held_up_loop_is_left_at_the_next_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    loop, heard = Loop(), []
    signals = Signals(loop, (signal.SIGINT,), heard.append)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)  # at once: the loop may just be busy
    time.sleep(0.1)
    with pytest.raises(HeldUp) as raised:
        os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.number == signal.SIGINT
    signals.close()
    loop.close()


def test_a_deadline_breaks_a_blocked_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    loop = Loop()
    signals = Signals(loop, (), lambda number: None, deadline=0.05)
    counter = os.eventfd(0)
    os.eventfd_write(counter, 0xFFFFFFFFFFFFFFFE)
    with pytest.raises(HeldUp):
        os.eventfd_write(counter, 1)  # what an engine that was taken over can make of a notification
    signals.close()
    os.close(counter)
    loop.close()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
