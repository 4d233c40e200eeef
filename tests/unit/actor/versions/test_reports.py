from actor.versions.reports import Reports


def test_the_newest_thousand_reports_are_kept() -> None:
    reports = Reports()
    for number in range(1001):
        reports.add("INFO", str(number))
    assert [message for _, message in reports] == [str(number) for number in range(1, 1001)]
