"""The learner loop over an in-process transport: synchronous actors, lag, schedules, outcomes, resuming."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import torch

from learner.training.learner_loop import find_version_fault
from learner.training.run_options import Outcome
from learner.training.training_statistics import Interval
from shared.errors import CheckpointError
from shared.rollouts.rollout import EpisodeEnds, Rollout
from shared.store.policy_store import LocalPolicyStore
from shared.store.version_files import version_name
from shared.transport.in_process import InProcessSender
from tests.support.captured_logs import CapturedLogs
from tests.support.learner_loops import STEPS, LoopRun, rollout
from tests.support.waiting import PATIENCE_S, Running

Start = Callable[..., LoopRun]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as ended:

        def start(**options: object) -> LoopRun:
            run = LoopRun(tmp_path, **options)  # type: ignore[arg-type]
            ended.callback(run.publisher.close)
            return run

        yield start


def act_what_is_wanted(sender: InProcessSender) -> list[int | None]:
    """Send a rollout whenever there is room; return the version requested each time."""
    wanted: list[int | None] = []
    while not sender.stop_requested:
        if sender.wait_for_room(0.01):
            wanted.append(sender.wanted_version)
            sender.send(rollout(sender.wanted_version or 0, seed=len(wanted)))
    return wanted


@pytest.mark.parametrize(("rollouts_each", "wanted"), [(1, [None, 1, 2, 3]), (2, [None, 0, 1, 1, 2, 2])])
def test_synchronous_actors_act_with_the_result_of_the_last_update(
    start: Start, rollouts_each: int, wanted: list[int | None]
) -> None:
    run = start(sync=True, batch_steps=rollouts_each * STEPS, total_steps=len(wanted) * STEPS)
    actor = Running(act_what_is_wanted, InProcessSender(run.receiver, "actor-0"))
    assert run.loop.run() is Outcome.STEP_LIMIT
    run.receiver.stop_actors(PATIENCE_S)
    assert actor.join()[: len(wanted)] == wanted
    assert run.loop.lag == 0
    assert run.loop.counters.updates == len(wanted) // rollouts_each


def test_asynchronous_actors_may_send_during_an_update(start: Start) -> None:
    run = start(total_steps=4 * STEPS)
    sender = InProcessSender(run.receiver, "actor-0")
    seen: list[bool] = []
    run.after_update = lambda _update: seen.append(sender.wait_for_room(0.0) and sender.send(rollout()))
    sender.send(rollout())
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert seen == [True] * 4
    assert sender.wanted_version is None


def test_rollouts_beyond_the_largest_lag_are_counted_as_stale(start: Start) -> None:
    run = start(max_lag=1, total_steps=6 * STEPS)
    # Each update publishes, so the newest versions are 0, 1, 2, 2, 3, 3 when these come.
    run.send(*(rollout(version) for version in (0, 0, 0, 1, 1, 3)))
    assert run.loop.run() is Outcome.STEP_LIMIT
    accounts = run.receiver.accounts
    assert (accounts.sent, accounts.learned, accounts.stale) == (6, 4, 2)
    assert run.loop.counters.env_steps == 6 * STEPS  # acted all the same
    assert run.loop.counters.updates == 4
    assert run.loop.lag == 0
    assert run.loop.counters.reloads == 2  # the one actor went from 0 to 1, and from 1 to 3


def test_rollouts_with_a_wrong_digest_are_invalid(start: Start) -> None:
    run = start(total_steps=2 * STEPS)
    forged = [rollout(version) for version in (0, 7)]  # version 7 is nowhere
    for one in forged:
        one.header = msgspec.structs.replace(one.header, digest="cd" * 32)
    run.send(rollout(), *forged, rollout())
    assert run.loop.run() is Outcome.STEP_LIMIT
    accounts = run.receiver.accounts
    assert (accounts.learned, accounts.invalid) == (2, 2)


def test_a_batch_is_as_many_rollouts_as_its_steps_need(start: Start) -> None:
    run = start(batch_steps=2 * STEPS + 1, total_steps=6 * STEPS)
    run.send_many(6)
    run.loop.run()
    assert run.loop.counters.updates == 2


def test_versions_and_checkpoints_follow_their_own_schedules(start: Start) -> None:
    run = start(publish_every=Interval(3), checkpoint_every=Interval(2), total_steps=7 * STEPS)
    checkpoints: list[int] = []
    run.after_update = lambda _update: checkpoints.append(run.loop.counters.checkpoints)
    run.send_many(7)
    run.loop.run()
    assert run.published_updates() == [0, 3, 6, 7]
    # The observer is told before the checkpoint of the same update.
    assert checkpoints == [1, 1, 2, 2, 3, 3, 4]
    assert run.loop.counters.checkpoints == 5


def test_nothing_is_published_or_written_twice(start: Start) -> None:
    run = start(publish_every=Interval(2), checkpoint_every=Interval(2), total_steps=2 * STEPS)
    run.send_many(2)
    run.loop.run()
    assert run.published_updates() == [0, 2]
    assert run.loop.counters.checkpoints == 2


def test_epochs_begin_at_every_checkpoint_and_the_end_adds_none(start: Start) -> None:
    epochs: list[tuple[int, int | None]] = []
    run = start(
        publish_every=Interval(100),
        checkpoint_every=Interval(2),
        total_steps=5 * STEPS,
        begin_epoch=lambda number: epochs.append((number, run.publisher.latest_version)),
    )
    run.send_many(5)
    run.loop.run()
    # What acts in the new epoch is what the checkpoint holds.
    assert epochs == [(1, 0), (2, 1), (3, 2)]
    assert run.published_updates() == [0, 2, 4, 5]
    assert run.checkpoints.steps() == [1, 2, 3]


def finished(*returns: float) -> Rollout:
    """A rollout in which episodes of these returns ended."""
    one = rollout()
    episodes = EpisodeEnds(list(returns), [10] * len(returns), [0] * len(returns))
    one.header = msgspec.structs.replace(one.header, episodes=episodes)
    return one


def test_the_target_is_reached_by_a_hundred_episodes_and_not_by_fewer(start: Start) -> None:
    run = start(target_return=475.0, total_steps=5 * STEPS)
    run.send(finished(*[475.0] * 99), finished(0.0), finished(*[475.0] * 100), finished())
    assert run.loop.run() is Outcome.TARGET_REACHED
    assert run.loop.counters.updates == 3
    assert run.loop.counters.time_to_target_s is not None


def test_the_step_limit_ends_a_training_below_its_target(start: Start) -> None:
    run = start(target_return=475.0, total_steps=2 * STEPS)
    run.send(finished(*[474.0] * 100), finished(), finished())
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert run.loop.counters.time_to_target_s is None


def test_the_time_limit_ends_a_training_that_waits_for_rollouts(start: Start) -> None:
    run = start(max_seconds=0.05)
    assert run.loop.run() is Outcome.TIME_LIMIT
    assert run.published_updates() == [0]


def test_an_interrupt_leaves_the_newest_weights_and_a_checkpoint(start: Start) -> None:
    run = start(publish_every=Interval(100), checkpoint_every=Interval(100))

    def interrupt(update: int) -> None:
        run.stop_requested = update == 2

    run.after_update = interrupt
    run.send_many(3)
    assert run.loop.run() is Outcome.INTERRUPTED
    assert run.published_updates() == [0, 2]
    assert run.checkpoints.load_newest()[1]["counters"]["updates"] == 2


def test_a_resumed_loop_continues_from_its_checkpoint(start: Start) -> None:
    before = start(total_steps=3 * STEPS)
    before.send(finished(1.0, 2.0), rollout(), rollout())
    before.loop.run()
    before.publisher.close()

    after = start(total_steps=4 * STEPS)
    after.loop.resume()
    assert after.loop.counters == before.loop.counters
    assert after.loop.episodes.state() == before.loop.episodes.state()
    resumed, trained = after.loop.learner.state_dict()["policy"], before.loop.learner.state_dict()["policy"]
    assert all(torch.equal(resumed[name], trained[name]) for name in trained)
    after.send_many(2)
    assert after.loop.run() is Outcome.STEP_LIMIT
    assert after.loop.counters.updates == 4
    accounts = after.receiver.accounts
    assert (accounts.sent, accounts.learned) == (5, 4)


class _Killed(Exception):
    """What ends a learner between two checkpoints."""


def _die_after_five_updates(update: int) -> None:
    if update == 5:
        raise _Killed


def test_versions_are_counted_over_every_learner_of_a_run(start: Start) -> None:
    """Swept versions count, and those published after a learner's last checkpoint."""
    swept = 0
    for resumed in (False, True, True):
        run = start(checkpoint_every=Interval(3))
        if resumed:
            swept += 1
            shutil.rmtree(run.store.path / version_name(swept))  # version 0 is what acts here
            run.loop.resume()
            assert run.publisher.published.count == len(run.store.versions()) + swept
        run.after_update = _die_after_five_updates
        run.send_many(5)
        with pytest.raises(_Killed):
            run.loop.run()
        assert run.publisher.published.count == len(run.store.versions()) + swept
        run.publisher.close()


def test_a_checkpoint_without_counts_of_versions_can_be_resumed(start: Start) -> None:
    before = start(total_steps=2 * STEPS)
    before.send_many(2)
    before.loop.run()
    before.publisher.close()
    step, state = before.checkpoints.load_newest()
    for name in ("published", "target_reached"):
        del state["counters"][name]
    before.checkpoints.save(step + 1, state)

    after = start(total_steps=3 * STEPS)
    after.loop.resume()
    assert after.publisher.published.count == 3
    assert after.loop.counters.updates == 2


@pytest.mark.parametrize(
    ("target", "outcome", "kept"),
    [(100.0, Outcome.TARGET_REACHED, True), (90.0, Outcome.TARGET_REACHED, True), (101.0, Outcome.STEP_LIMIT, False)],
)
def test_a_reached_target_does_not_count_for_a_higher_one(
    start: Start, target: float, outcome: Outcome, kept: bool
) -> None:
    before = start(target_return=100.0, checkpoint_every=Interval(100))  # the last holds what was reached
    before.send(finished(*[100.0] * 100))
    assert before.loop.run() is Outcome.TARGET_REACHED
    before.publisher.close()

    after = start(target_return=target, total_steps=2 * STEPS)
    after.loop.resume()
    after.send(finished())
    assert after.loop.run() is outcome
    assert after.loop.counters.time_to_target_s == (before.loop.counters.time_to_target_s if kept else None)


def test_without_a_checkpoint_there_is_nothing_to_resume(start: Start) -> None:
    run = start()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        run.loop.resume()


def test_unpublished_versions_and_wrong_digests_are_faults(start: Start, store: LocalPolicyStore) -> None:
    before = start(store=store)
    before.loop.publish()
    before.publisher.close()
    run = start(store=store)
    old = store.open(0).manifest.digest

    def fault(version: int, digest: str) -> str:
        return find_version_fault(run.publisher, version, digest) or ""

    assert not fault(0, old)  # an earlier learner published it
    assert "never published" in fault(1, old)
    run.loop.learner.policy.value_scale.fill_(2.0)
    run.loop.publish()
    new = store.open(1).manifest.digest
    assert not fault(0, old)
    assert not fault(1, new)
    assert "has digest" in fault(1, old)
    assert "never published" in fault(2, new)


def _poisoned() -> Rollout:
    one = rollout()
    one.reward[2, 1] = float("nan")
    return one


def test_ten_rejected_rollouts_in_a_row_from_one_actor_end_the_training(start: Start) -> None:
    run = start(total_steps=1000 * STEPS)
    run.send(rollout(), *(_poisoned() for _ in range(9)), rollout(), *(_poisoned() for _ in range(10)))
    assert run.loop.run() is Outcome.ENVIRONMENT_FAILED
    accounts = run.receiver.accounts
    assert (accounts.learned, accounts.invalid) == (2, 19)
    assert run.checkpoints.load_newest()[1]["counters"]["updates"] == 2


def test_rejected_rollouts_of_several_actors_are_no_row(start: Start) -> None:
    run = start(total_steps=2 * STEPS)
    for _ in range(3):
        run.send(*(_poisoned() for _ in range(9)))
    run.send(rollout(), rollout())
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert run.receiver.accounts.invalid == 27


def test_a_synchronous_actor_whose_rollout_was_rejected_acts_again(start: Start) -> None:
    run = start(sync=True, total_steps=2 * STEPS)
    rejected = iter([True, False, True, False])

    def act(sender: InProcessSender) -> None:
        while not sender.stop_requested:
            if sender.wait_for_room(0.01):
                sender.send(_poisoned() if next(rejected, False) else rollout(sender.wanted_version or 0))

    actor = Running(act, InProcessSender(run.receiver, "actor-0"))
    assert run.loop.run() is Outcome.STEP_LIMIT
    run.receiver.stop_actors(PATIENCE_S)
    actor.join()
    assert run.receiver.accounts.invalid == 2
    assert run.loop.counters.updates == 2


def _diverge_once(run: LoopRun, at_update: int) -> None:
    """Make the parameters so large, after an update, that no gradient is finite any more."""
    left = [at_update]

    def diverge(update: int) -> None:
        if left == [update]:
            left.clear()
            for parameter in run.loop.learner.policy.parameters():
                parameter.data.fill_(1e30)

    run.after_update = diverge


def test_after_ten_skipped_updates_the_policy_returns_to_its_checkpoint(
    start: Start, captured_logs: CapturedLogs
) -> None:
    run = start(total_steps=15 * STEPS, checkpoint_every=Interval(100))
    _diverge_once(run, at_update=2)
    run.send_many(15)
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert (run.loop.counters.updates, run.loop.counters.skipped_updates) == (5, 10)
    accounts = run.receiver.accounts
    assert (accounts.sent, accounts.learned, accounts.invalid) == (15, 5, 10)
    (line,) = captured_logs.lines_with("policy returned to checkpoint 1 skipped_updates=10 reason=")
    assert "ERROR" in line
    assert "is not finite" in line or "norm" in line
    assert run.published_updates() == [0, 1, 2, 2, 3, 4, 5]  # also what it returned to


def test_if_updates_from_a_checkpoint_are_skipped_too_the_one_before_is_next(start: Start) -> None:
    run = start(total_steps=25 * STEPS, checkpoint_every=Interval(1))
    _diverge_once(run, at_update=2)  # which the checkpoint of that update holds
    run.send_many(25)
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert (run.loop.counters.updates, run.loop.counters.skipped_updates) == (5, 20)


def test_a_policy_that_is_not_finite_is_neither_published_nor_kept(start: Start, captured_logs: CapturedLogs) -> None:
    run = start(total_steps=3 * STEPS)

    def poison(update: int) -> None:
        if update == 3:
            run.loop.learner.policy.value_scale.fill_(float("nan"))

    run.after_update = poison
    run.send_many(3)
    run.loop.run()
    run.loop.publish()
    assert run.published_updates() == [0, 1, 2, 3]
    assert run.checkpoints.load_newest()[1]["counters"]["updates"] == 2
    assert captured_logs.has("publishing fails", "value_scale holds values that are not finite")
    assert captured_logs.has("writing checkpoints fails", "value_scale holds values that are not finite")
