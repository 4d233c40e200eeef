"""The loader thread while nothing happens. The tests of agents cover what it does with versions."""

import os
from functools import partial
from pathlib import Path

import pytest

from actor.agent_builder import build_loader
from actor.agent_options import AgentOptions
from actor.versions import store_listing
from actor.watching.policy_watcher import PolicyWatcher
from tests.support.agent_policies import local_store, publish_seed
from tests.support.waiting import until


class _CountingWatcher(PolicyWatcher):
    """Receives no events."""

    checks = looks = 0

    def start(self) -> None:
        pass

    def check(self, *, force: bool = False) -> bool:
        self.checks += 1
        return super().check(force=force)

    def is_untouched(self) -> bool:
        self.looks += 1
        return super().is_untouched()


def test_an_idle_loader_only_looks_whether_the_store_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_listing, "PolicyWatcher", partial(_CountingWatcher, poll_s=0.002))
    store = local_store(tmp_path / "policies")
    publish_seed(store, 0)
    os.utime(store.path, (1e9, 1e9))  # as if nothing had happened there for a while
    loader = build_loader(store, AgentOptions(prefetch=False))
    watcher, manager = loader.watcher, loader.manager
    assert isinstance(watcher, _CountingWatcher)
    loader.start()
    try:
        until(lambda: watcher.looks)
        checks, looks = watcher.checks, watcher.looks
        assert manager.held_version == 0
        until(lambda: watcher.looks > looks + 50)
        assert watcher.checks == checks
        publish_seed(store, 1)
        until(lambda: manager.held_version == 1)
    finally:
        loader.close()
