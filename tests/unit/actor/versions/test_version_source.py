from actor.versions.version_source import VersionSource
from actor.watching.wake_up import WakeUp


def test_the_base_class_offers_nothing_and_leaves_every_version_to_the_loader() -> None:
    source = VersionSource()
    assert not source.is_active
    assert not source.has_news
    assert not source.take()
    assert not source.keep(WakeUp(), WakeUp())
    assert source.leaves_to_loader(7)
    assert not source.loaded(1.0)
    assert source.announced() == ()
    source.close()
