from shared.retry import RetrySchedule


def test_delays_double_up_to_a_bound_with_jitter() -> None:
    schedule = RetrySchedule(first_delay_s=0.1, largest_delay_s=1.0)
    for attempt, least in enumerate([0.1, 0.2, 0.4, 0.8, 1.0, 1.0], start=1):
        delays = {schedule.delay_s(attempt) for _ in range(20)}
        assert all(least <= delay <= min(least + 0.1, 1.0) for delay in delays)
    assert len({schedule.delay_s(1) for _ in range(20)}) > 1
    assert RetrySchedule().delay_s(100_000) == 5.0, "many attempts do not overflow"
