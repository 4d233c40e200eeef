"""The link from an actor to the learner of its run."""

from dataclasses import dataclass

from actor.session.actor_settings import ActorSettings
from actor.session.policy_source import PolicySource
from actor.session.session_report import Print
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.transport.transport_keys import ActorKeys, choose_actor_keys
from shared.transport.zmq_curve import check_keys
from shared.transport.zmq_sender import ZmqSender


@dataclass(frozen=True)
class LearnerLink:
    """A learner that accepts rollouts, and the keys for it."""

    run: RunDirectory
    config: RunConfig
    keys: ActorKeys | None

    def join(self, name: str, print_line: Print) -> ZmqSender:
        """Return a sender of rollouts under the actor's ``name``."""
        print_line(f"joined the training in {self.run.path} as {name}: its learner learns from this actor's rollouts")
        return ZmqSender(
            self.config.address,
            self.config.run_id,
            name,
            window=self.config.window,
            learner_timeout_s=self.config.learner_timeout_s,
            keys=self.keys,
        )


def find_learner(settings: ActorSettings, source: PolicySource, print_line: Print) -> LearnerLink | None:
    """Return the learner to send rollouts to, or None.

    It is looked up before the wait for a first policy, so that a missing key is reported at once.

    Raises:
        ConfigurationError: the learner needs a key that is missing.
    """
    run, config = source.run, source.config
    if run is None or config is None or settings.deterministic or not settings.send:
        return None
    if config.env_id != settings.env:
        print_line(f"{source.where} is for {config.env_id}: no rollouts of {settings.env} are sent to its learner")
        return None
    if not settings.supervised and not run.live():  # a supervisor's learner may still be starting
        return None
    keys = choose_actor_keys(settings.transport_key, run.path, config.learner_public_key)
    check_keys(config.address, keys)
    return LearnerLink(run, config, keys)
