"""Faults for a training and its actors: drawn at random, and undone after a while where that is possible."""

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from rl_hotswap.cli.rollback import roll_back
from scripts.fault_injection.corrupted_versions import CORRUPTIONS, edit_manifest, flip, sign_manifest, truncate
from scripts.fault_injection.environment_faults import EnvironmentFaults
from scripts.fault_injection.garbage_client import INVALID, flood
from scripts.fault_injection.processes import bind_read_only, is_alive, send_signal, unmount
from scripts.fault_injection.published import highest_number
from scripts.fault_injection.run_state import ACTORS, INFERENCE_ACTORS, RunState
from shared.errors import HotswapError
from shared.files.small_files import TEMPORARY_PREFIX
from shared.policy.manifest import MANIFEST_NAME
from shared.policy.signing import SigningKey
from shared.store.authenticity import Authenticity
from shared.store.pending_version import PENDING_DIRECTORY
from shared.store.policy_store import LocalPolicyStore, UsedNumbers, version_name

_KILLS_WITHOUT_PROGRESS = 3
_ABANDONED_AGE_S = 3600.0
_TRIES = 20  # to commit a corrupted version
_KILL_BEFORE_IT_ACTS = 0.2
_SIGN_CORRUPTED = 0.5


@dataclass
class _Undo:
    at_s: float
    what: str
    action: Callable[[], object]
    storage: bool
    disturbs_learner: bool


class Faults:
    """``inject`` injects one fault that is possible now; ``undo`` ends those that are due."""

    def __init__(
        self,
        state: RunState,
        generator: np.random.Generator,
        key: SigningKey | None,
        environments: EnvironmentFaults,
    ) -> None:
        """Use ``key``, which signs the training's versions, for corrupted versions and rollbacks; None: no signing."""
        self._state = state
        self._key = key
        self._generator = generator
        self._environments = environments
        self._undo: list[_Undo] = []
        self._learner_kills = 0
        self._updates_at_kill = -1
        self._kinds: dict[Callable[[], bool], float] = {
            self._kill_learner: 6,
            lambda: self._kill(self._one_of(ACTORS)): 7,
            self._kill_inference_actor: 8,
            self._kill_supervisor: 4,
            self._stop_process: 7,
            self._publish_corrupted: 7,
            self._break_checkpoint: 2,
            self._move_store_away: 1.5,
            self._fill_disk: 1.5,
            self._make_store_read_only: 1.5,
            self._flood: 2,
            self._send_invalid: 2,
            self._roll_back: 1.5,
            self._abandon_write: 1.5,
            environments.inject: 6,
            state.rare_programs.inject: 3,
        }

    def inject(self) -> None:
        """Draw faults by weight until one is possible, and inject it."""
        kinds, weights = list(self._kinds), np.array(list(self._kinds.values()))
        for kind in self._generator.choice(np.array(kinds), len(kinds), replace=False, p=weights / weights.sum()):
            if kind():
                return

    def undo(self, *, all_of_them: bool = False) -> None:
        if all_of_them:
            self._environments.undo()
        now_s = time.monotonic()
        due = [undo for undo in self._undo if all_of_them or now_s >= undo.at_s]
        self._undo = [undo for undo in self._undo if undo not in due]
        for undo in due:
            undo.action()
            if undo.disturbs_learner:
                self._state.lost_work.end_disturbance()
            self._state.invariants.print(undo.what)

    def _later(
        self, seconds: float, what: str, action: Callable[[], object], *, storage: bool = False, disturbs: bool = True
    ) -> None:
        """Undo by ``action`` after ``seconds``; until then the storage fails, or the learner may be disturbed."""
        if disturbs:
            self._state.lost_work.begin_disturbance()
        self._undo.append(_Undo(time.monotonic() + seconds, what, action, storage, disturbs))

    def _storage_works(self) -> bool:
        return not any(undo.storage for undo in self._undo)

    def _one_of(self, names: tuple[str, ...]) -> str:
        return str(self._generator.choice(np.array(names)))

    def _count(self, fault: str, detail: str) -> bool:
        self._state.invariants.count_fault(fault, detail)
        return True

    def _kill(self, name: str) -> bool:
        process = self._state.find(name)
        if process is None or not send_signal(process, signal.SIGKILL):
            return False
        return self._count(f"kill -9 {name}", f"(process {process.pid})")

    def _kill_inference_actor(self) -> bool:
        """Kill mostly actors that act already: the time until they act again is measured."""
        acting = tuple(name for name in INFERENCE_ACTORS if self._state.inference[name].first_acts_s is not None)
        any_of_them = not acting or self._generator.random() < _KILL_BEFORE_IT_ACTS
        actor = self._state.inference[self._one_of(INFERENCE_ACTORS if any_of_them else acting)]
        if not self._kill(actor.name):
            return False
        actor.process.wait()
        self._state.restart(actor, measured=self._storage_works())
        return True

    def _kill_learner(self) -> bool:
        if not self._kill_learner_process():
            return False
        self._state.expect_resume()
        return True

    def _kill_learner_process(self) -> bool:
        process = self._state.find("learner")
        if process is None or not self._may_kill_learner() or not self._kill("learner"):
            return False
        deadline_s = time.monotonic() + 10.0
        while is_alive(process) and time.monotonic() < deadline_s:  # its parent may reap it later
            time.sleep(0.002)
        self._state.learner_killed()
        return True

    def _may_kill_learner(self) -> bool:
        """Return False after several kills without progress: the supervisor gives up such a learner, and rightly."""
        updates = self._state.checkpointed_updates()
        if updates > self._updates_at_kill:
            self._learner_kills = 0
        if self._learner_kills >= _KILLS_WITHOUT_PROGRESS:
            return False
        self._updates_at_kill = updates
        self._learner_kills += 1
        return True

    def _kill_supervisor(self) -> bool:
        """Kill the supervisor and resume; all of its processes must end soon. Resuming needs a working disk."""
        if not self._storage_works() or not self._may_kill_learner():
            return False
        descendants = self._state.training.descendants()
        if not self._kill("supervisor"):
            return False
        self._state.training.process.wait()
        self._state.wait_until_gone(descendants)
        self._state.learner_killed()
        self._state.expect_resume()
        self._state.training.resume()
        self._state.invariants.print("training resumed")
        return True

    def _stop_process(self) -> bool:
        name = self._one_of(("supervisor", "learner", *ACTORS, *INFERENCE_ACTORS))
        process = self._state.find(name)
        if process is None or not send_signal(process, signal.SIGSTOP):
            return False
        seconds = self._generator.uniform(0.2, 6.0)
        self._state.stopped[process.pid] = name
        if name in INFERENCE_ACTORS:
            self._state.inference[name].disturbed = True

        def resume() -> None:
            send_signal(process, signal.SIGCONT)
            self._state.stopped.pop(process.pid, None)
            if name in INFERENCE_ACTORS:
                self._state.inference[name].last_episode_s = time.monotonic()

        self._later(seconds, f"SIGCONT {name}", resume, disturbs=name not in INFERENCE_ACTORS)
        return self._count(f"SIGSTOP {name}", f"for {seconds:.1f} s")

    def _publish_corrupted(self) -> bool:
        store = self._state.run.policies
        if not self._storage_works():
            return False
        kind = self._one_of(tuple(CORRUPTIONS))
        staged = self._state.run.path / f"staged-{secrets.token_hex(4)}"
        try:
            for _ in range(_TRIES):
                number = max(highest_number(store), UsedNumbers(self._state.run.numbers).highest()) + 1
                source = max(
                    number for number in self._state.published.digests if (store / version_name(number)).is_dir()
                )
                shutil.copytree(store / version_name(source), staged)
                edit_manifest(staged, lambda manifest, number=number: manifest.update(version=number))  # type: ignore[misc]
                CORRUPTIONS[kind](staged)
                key = self._key if self._key is not None and self._generator.random() < _SIGN_CORRUPTED else None
                if key is not None:
                    sign_manifest(staged, key)
                if self._state.published.commit_corrupted(store, staged, number, kind):
                    return self._count("corrupted version", f"{number}: {kind}{', signed' if key else ''}")
                shutil.rmtree(staged)
        except (OSError, ValueError):  # the source was swept meanwhile, or there is none
            pass
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return False

    def _break_checkpoint(self) -> bool:
        """Kill the learner and corrupt the newest checkpoint: the next learner must take the one before."""
        if len(self._state.checkpoints()) < 2 or not self._kill_learner_process():
            return False
        self._state.lost_work.checkpoint_broken()
        *_, before, newest = self._state.checkpoints()
        with suppress(OSError):
            if self._generator.random() < 0.5:
                truncate(newest)
            else:
                flip(newest, self._generator.uniform(0.0, 0.99))
            self._count("corrupted checkpoint", f"{newest.name}; {before.name} is intact")
        self._state.expect_resume()
        return True

    def _move_store_away(self) -> bool:
        if not self._storage_works():
            return False
        store, away, between = self._state.run.policies, self._state.away, self._state.between
        store.rename(away)

        def move_back() -> None:
            while away.exists():  # the learner may have made a new store, even during this loop
                with suppress(FileNotFoundError):
                    store.rename(between)
                with suppress(OSError):
                    away.rename(store)
                for path in between.glob("v*"):  # versions that were published meanwhile join the others
                    with suppress(OSError):  # ``Published`` reports a number that was used twice
                        path.rename((away if away.exists() else store) / path.name)
                shutil.rmtree(between, ignore_errors=True)

        return self._break_storage("store moved away", "store moved back", move_back)

    def _fill_disk(self) -> bool:
        if not self._storage_works():
            return False
        if not self._state.environment.mounts:
            return self._deny_writes()
        filler = self._state.environment.disk / "filler"
        for block in (bytes(2**20), bytes(4096)):
            with suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(block)
        return self._break_storage("disk full", "disk has room", filler.unlink)

    def _deny_writes(self) -> bool:
        """Let the run directory take no new files, as a full one does not, where nothing can be mounted."""
        run = self._state.run
        if os.geteuid() == 0:  # permissions do not bind root
            return False
        directories = [path for path in (run.path, run.checkpoints, run.policies, run.logs) if path.is_dir()]
        for path in directories:
            path.chmod(0o500)

        def permit() -> None:
            for path in directories:
                path.chmod(0o700)

        return self._break_storage("run directory takes no files", "run directory takes files", permit)

    def _make_store_read_only(self) -> bool:
        store = self._state.run.policies
        if not self._state.environment.mounts or not self._storage_works() or not bind_read_only(store):
            return False
        return self._break_storage("store read-only", "store writable", partial(unmount, store))

    def _break_storage(self, what: str, after: str, undo: Callable[[], object]) -> bool:
        seconds = self._generator.uniform(0.5, 4.0)
        for actor in self._state.inference.values():
            actor.disturbed = True
        self._later(seconds, after, undo, storage=True)
        return self._count(what, f"for {seconds:.1f} s")

    def _flood(self) -> bool:
        try:
            sent = flood(self._state.run.path, self._generator)
        except HotswapError:  # the learner has not begun
            return False
        return bool(sent) and self._count("garbage", f"of {sent:,} bytes into the learner's socket")

    def _send_invalid(self) -> bool:
        process = self._state.find("learner")
        if process is None or process.pid in self._state.stopped:
            return False
        kind = self._one_of(tuple(INVALID))
        if not self._state.invalid_rollouts.send(kind):
            return False
        self._state.invariants.count_fault("invalid rollout", f"({kind})")
        return True

    def _roll_back(self) -> bool:
        """Roll back to one of the learner's own versions, as the command does; the learner publishes newer ones."""
        if not self._storage_works():
            return False
        store = LocalPolicyStore(self._state.run.policies, used_numbers=UsedNumbers(self._state.run.numbers))
        keys = () if self._key is None else (self._key.public,)
        try:
            own = [number for number in store.versions() if number in self._state.published.digests]
            to = int(self._generator.choice(own[:-1]))
            config = self._state.run.run_config()
            manifest = roll_back(store, to, Authenticity(keys, config.run_id if config else None), self._key)
        except (HotswapError, OSError, ValueError):  # the version was swept meanwhile, or there is none
            return False
        return self._count("rollback", f"to version {to}, as version {manifest.version}")

    def _abandon_write(self) -> bool:
        directory = self._state.run.policies / PENDING_DIRECTORY / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            directory.mkdir()
            (directory / MANIFEST_NAME).write_bytes(self._generator.bytes(1000))
            then = time.time() - _ABANDONED_AGE_S
            for path in (directory / MANIFEST_NAME, directory):
                os.utime(path, (then, then))
        except OSError:
            return False
        self._state.abandoned.append(directory)
        return self._count("abandoned write", directory.name)
