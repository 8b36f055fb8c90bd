"""Signals that ask to leave: heard once, at once where they come again, and twice where a launcher passes them on."""

from __future__ import annotations

import os
import signal

import pytest

from sfumato.training.leaving import asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_second_signal_leaves_at_once(number: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with asked() as noted:
        os.kill(os.getpid(), number)
        assert noted.signal == number
        with pytest.raises(SystemExit) as found:
            os.kill(os.getpid(), number)
    assert found.value.code == 128 + number


def test_what_the_launcher_passes_on_is_the_same_signal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "815")
    with asked() as noted:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert noted.signal == signal.SIGTERM
        with pytest.raises(SystemExit) as found:  # somebody means it
            os.kill(os.getpid(), signal.SIGTERM)
    assert found.value.code == 143


def test_another_signal_is_no_echo(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "815")
    with asked():
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(SystemExit) as found:
            os.kill(os.getpid(), signal.SIGTERM)
    assert found.value.code == 143
