"""What a loader does while nothing happens. For what it does with versions see the tests of agents."""

import os
from pathlib import Path

from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from actor.versions.policy_loader import PolicyLoader
from actor.versions.policy_manager import PolicyManager
from actor.versions.version_life import VersionTable
from actor.versions.version_selection import Newest
from actor.watching.policy_watcher import PolicyWatcher
from tests.support.agent_policies import local_store, publish_seed
from tests.support.waiting import until


class _CountingWatcher(PolicyWatcher):
    """Hears of no event."""

    checks = looks = 0

    def start(self) -> None:
        pass

    def check(self, *, force: bool = False) -> bool:
        self.checks += 1
        return super().check(force=force)

    def is_untouched(self) -> bool:
        self.looks += 1
        return super().is_untouched()


def test_while_the_store_stays_as_it_is_a_loader_only_looks_whether_it_does(tmp_path: Path) -> None:
    store = local_store(tmp_path / "policies")
    publish_seed(store, 0)
    os.utime(store.path, (1e9, 1e9))  # as if nothing had happened there for a while
    watcher = _CountingWatcher(store, poll_s=0.002)
    versions = VersionTable()
    manager = PolicyManager(versions)
    engines = EngineFallback(EngineOptions("auto", batch_size=1, measure=False))
    loader = PolicyLoader(store, manager, versions, engines, Newest(), name="idle", watcher=watcher)
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
