"""Batches open when enough is new, failures are tried again with patience, and rollbacks go back one by one."""

import pytest

from app.intent.training import due, labels_needed, retry_delay, rollback_target


@pytest.mark.parametrize(
    ("labelled", "needed"), [(0, 100), (999, 100), (1_000, 100), (1_001, 101), (1_230, 123), (15_000, 1_500)]
)
def test_a_batch_needs_a_hundred_labels_or_a_tenth_of_what_is_labelled(labelled, needed):
    assert labels_needed(labelled) == needed


def test_the_share_is_not_rounded_up_by_an_error_of_floating_point():
    assert 0.07 * 10_000 > 700
    assert labels_needed(10_000, floor=1, share=0.07) == 700


def rule(**given):
    return due(**{"new": 0, "oldest_new_age_days": 0.0, "labelled": 0} | given)


@pytest.mark.parametrize(
    ("given", "opens", "missing"),
    [
        ({"new": 100}, True, 0),
        ({"new": 99}, False, 1),
        ({"new": 0}, False, 100),
        ({"new": 100, "labelled": 2_000}, False, 100),
        ({"new": 200, "labelled": 2_000}, True, 0),
        ({"new": 20, "oldest_new_age_days": 7.0}, True, 0),
        ({"new": 19, "oldest_new_age_days": 70.0}, False, 81),
        ({"new": 20, "oldest_new_age_days": 6.99}, False, 80),
        ({"new": 20, "oldest_new_age_days": 7.0, "labelled": 90_000}, True, 0),
        ({"new": 0, "oldest_new_age_days": 8.0, "small": 0}, False, 100),
        ({"new": 5, "floor": 5}, True, 0),
        ({"new": 3, "oldest_new_age_days": 1.0, "small": 3, "small_days": 1.0}, True, 0),
    ],
)
def test_a_batch_is_due_when_enough_is_new_or_some_and_old(given, opens, missing):
    decision = rule(**given)
    assert (decision.open, decision.missing) == (opens, missing)
    assert str(given["new"]) in decision.reason


def test_the_reason_says_what_a_person_can_wait_for():
    assert rule(new=37).reason == "37 of 100 new labels are in; 20 are enough once the oldest is 7 days old"
    assert rule(new=37, small=0).reason == "37 of 100 new labels are in"


def test_failed_batches_are_tried_again_ever_later_and_then_no_more():
    assert [retry_delay(failures) for failures in range(6)] == [0.0, 60.0, 300.0, 1500.0, None, None]
    assert retry_delay(1, delays_seconds=()) is None
    assert retry_delay(2, delays_seconds=(1.5, 2.5)) == 2.5


def history(*steps):
    return [(epoch, version, kind) for epoch, (version, kind) in enumerate(steps, start=1)]


UP, BACK = "activate", "rollback"


@pytest.mark.parametrize(
    ("steps", "target"),
    [
        ([], None),
        ([(1, UP)], None),
        ([(1, UP), (2, UP)], 1),
        ([(1, UP), (2, UP), (3, UP)], 2),
        ([(1, UP), (2, UP), (3, UP), (2, BACK)], 1),
        ([(1, UP), (2, UP), (3, UP), (2, BACK), (1, BACK)], None),
        ([(1, UP), (2, UP), (1, BACK), (3, UP)], 1),
        ([(1, UP), (2, UP), (1, BACK), (3, UP), (1, BACK)], None),
        ([(1, UP), (2, UP), (1, UP)], 2),
        ([(1, UP), (2, UP), (2, UP)], 1),
        ([(1, UP), (2, UP), (1, BACK), (1, UP)], None),
        ([(1, BACK)], None),
    ],
)
def test_a_rollback_goes_to_the_version_before_one_more_each_time(steps, target):
    assert rollback_target(history(*steps)) == target
    assert rollback_target(reversed(history(*steps))) == target
