"""A function that never returns is ended in time, and the next call works."""

import os
import time

import pytest

from bloomery.curate.deadline import Helper, HelperDied, OutOfTime


def test_a_call_that_hangs_is_ended_and_the_next_one_is_answered():
    helper = Helper(time.sleep, (0,))
    started = time.monotonic()
    with pytest.raises(OutOfTime):
        helper.call(1000, seconds=0.1)
    assert time.monotonic() - started < 500
    assert helper.call(0, seconds=60) is None
    helper.close()


def test_one_helper_answers_many_calls():
    helper = Helper(divmod, (1, 1))
    assert [helper.call(i, 7, seconds=60) for i in range(20)] == [divmod(i, 7) for i in range(20)]
    helper.close()


def test_a_helper_that_dies_is_told_from_one_that_is_late():
    helper = Helper(os._exit, (0,))
    with pytest.raises(HelperDied):
        helper.call(1, seconds=60)
    helper.close()


def test_calls_that_hang_one_after_another_are_each_ended_in_time():
    helper = Helper(time.sleep, (0,))
    assert helper.call(0, seconds=60) is None  # the first start is not counted
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(OutOfTime):
            helper.call(1000, seconds=0.3)
        assert time.monotonic() - started < 10
    assert helper.call(0, seconds=60) is None
    helper.close()
