"""The loader thread survives whatever one of its phases raises, reports each kind once, and finds later versions."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from actor.agent import Agent
from actor.loading.engine_fallback import EngineFallback
from actor.prefetch.prefetcher import Prefetcher
from actor.versions.loader_thread import PolicyLoader
from actor.versions.policy_manager import PolicyManager
from actor.versions.quarantine_reporter import QuarantineReporter
from actor.versions.reports import Attempts, Reports
from actor.versions.selection_strategy import FollowSelection
from actor.versions.staleness import StalenessMonitor
from actor.watching.directory_events import InotifyEvents
from actor.watching.policy_watcher import PolicyWatcher
from shared.store.local_policy_store import LocalPolicyStore
from tests.support.agent_policies import MakeAgent, publish_seed
from tests.support.captured_logs import CapturedLogs
from tests.support.waiting import until


class _Silent(Exception):
    """Has no text: the text raises too."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class _Interruption(BaseException):
    """No ordinary exception."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "an I/O error": lambda: OSError(5, "Input/output error"),
    "an encoding error": lambda: UnicodeEncodeError("utf-8", "st\udcffre", 2, 3, "surrogates not allowed"),
    "no memory": MemoryError,
    "no text": _Silent,
    "forged lines": lambda: ValueError("first\nERROR | actor.agent:reset - \x1b[2J\u202eforged"),
    "an exit": lambda: SystemExit("bye"),
    "no exception": _Interruption,
}
# The method that each phase calls, and a part of the line that reports its failure.
PHASES: dict[str, tuple[type[Any], str, str]] = {
    "preparation": (EngineFallback, "prepare", "phase=preparation "),
    "watching": (PolicyWatcher, "start", "phase=watching "),
    "events": (InotifyEvents, "take", "no file events; polling |phase=events |phase=loading "),
    "source": (Prefetcher, "keep", "phase=source "),
    "strategy": (FollowSelection, "look", "phase=strategy "),
    "listing": (LocalPolicyStore, "versions", "policy store does not answer, retrying error=|phase=loading "),
    "selection": (FollowSelection, "select", "phase=loading "),
    "opening": (LocalPolicyStore, "open", "policy version 1 "),
    "loading": (EngineFallback, "load", "policy version 1 "),
    "handover": (PolicyManager, "offer", "policy version 1 "),
    "trimming": (PolicyManager, "trim_spares", "phase=trimming "),
    "quarantine": (QuarantineReporter, "share", "phase=quarantine "),
    "age": (StalenessMonitor, "reports", "phase=age "),
    "rest": (PolicyLoader, "_rest", "phase=rest "),
}
AT_START = ("preparation", "watching")


class _Fault:
    """Lets a method raise while ``error`` is set."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: type[Any], method: str) -> None:
        self.error: Callable[[], BaseException] | None = None
        self.calls = 0
        whole = getattr(owner, method)

        def broken(this: object, *arguments: Any, **keywords: Any) -> Any:
            if self.error is None or threading.current_thread() is threading.main_thread():
                return whole(this, *arguments, **keywords)
            self.calls += 1
            raise self.error()

        patch.setattr(owner, method, broken)


def _is_alive(agent: Agent) -> bool:
    thread = agent._loader._thread
    return thread is not None and thread.is_alive()


def _adopts(agent: Agent, version: int) -> None:
    until(lambda: agent.adopt().version == version)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in ("forged lines", "an exit") else pytest.mark.slow) for kind in ERRORS],
)
@pytest.mark.parametrize("phase", PHASES)
def test_the_loader_survives_every_exception_in_every_phase(
    store: LocalPolicyStore,
    make_agent: MakeAgent,
    captured_logs: CapturedLogs,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    kind: str,
) -> None:
    owner, method, said = PHASES[phase]
    monkeypatch.setattr("actor.watching.policy_watcher._RESCAN_SURE_S", 0.01)
    monkeypatch.setattr("actor.versions.loader_thread._REST_AFTER_FAULT_S", 0.0)
    fault = _Fault(monkeypatch, owner, method)
    fault.error = ERRORS[kind] if phase in AT_START else None
    publish_seed(store, 0)
    agent = make_agent(synchronous=False, deadline_s=20.0)
    agent.reset()
    fault.error = ERRORS[kind]
    publish_seed(store, 1)
    agent._loader._wake.set()
    until(lambda: (agent._loader._wake.set(), fault.calls)[1])
    assert _is_alive(agent)
    fault.error = None
    publish_seed(store, 2)
    agent._loader._wake.set()
    _adopts(agent, 2)
    lines = [line for line in captured_logs.messages("WARNING") if any(part in line for part in said.split("|"))]
    assert lines, captured_logs.lines
    assert len(set(lines)) == len(lines) == (1 if phase != "events" else len(lines)), captured_logs.lines
    for line in lines:
        assert not {"\n", "\x1b", "\u202e"} & {*line}
    assert _is_alive(agent)


def test_a_kind_of_failure_is_reported_again_after_ten_minutes_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("actor.versions.reports.time.monotonic", lambda: now_s)
    reports = Reports()
    attempts = Attempts(reports)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    for _ in range(1000):
        assert not attempts.run("listing", fail)
    assert attempts.run("listing", lambda: None)
    assert not attempts.run("age", fail)
    now_s = 601.0
    assert not attempts.run("listing", fail)
    assert [report.message for report in reports] == [
        f"policy loader failed phase={phase} failures={count} error=OSError: [Errno 5] Input/output error"
        for phase, count in (("listing", 1), ("age", 1), ("listing", 1001))
    ]


def test_an_interrupt_of_the_program_passes() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Attempts(Reports()).run("loading", interrupt)
