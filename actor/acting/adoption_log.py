"""The log lines for adopted policies, at most one a second: a line costs as much as the rest of an adoption."""

import time

from loguru import logger

from actor.loading.loaded_policy import LoadedPolicy

_INTERVAL_S = 1.0
_DEPTH = 3  # the logged place is the caller of the agent's ``reset`` or ``adopt``


class AdoptionLog:
    """Logs the acting policy of the agent ``name``; holds back a line that is too early. For the acting thread only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._logged_at_s = float("-inf")
        self.unlogged = 0  # changes since the last line

    def changed(self, policy: LoadedPolicy) -> None:
        """Record that ``policy`` acts now."""
        self.unlogged += 1
        if time.monotonic() - self._logged_at_s >= _INTERVAL_S:
            self._log(policy)

    def catch_up(self, policy: LoadedPolicy) -> None:
        """Log the acting ``policy`` if its line was held back and is due."""
        if self.unlogged and time.monotonic() - self._logged_at_s >= _INTERVAL_S:
            self._log(policy)

    def end(self, policy: LoadedPolicy | None) -> None:
        """Log a line that was held back."""
        if self.unlogged and policy is not None:
            self._log(policy)

    def _log(self, policy: LoadedPolicy) -> None:
        line = "policy version {} adopted agent={} engine={} digest={}"
        if policy.load_ms is not None:
            line += f" load_ms={policy.load_ms:.1f}"
        if self.unlogged > 1:
            line += f" changes={self.unlogged}"
        logger.opt(depth=_DEPTH).info(line, policy.version, self._name, policy.engine_name, policy.digest[:12])
        self._logged_at_s, self.unlogged = time.monotonic(), 0
