"""Tests of words for people."""

import pytest

from selfcell.core.words import counted, in_words


@pytest.mark.parametrize(("number", "words"), [(0, "0 shards"), (1, "1 shard"), (2000, "2,000 shards")])
def test_a_number_goes_with_its_noun(number, words):
    assert counted(number, "shard") == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99.0, "99 s"), (150.0, "2 min"), (5940.0, "99 min"), (12_000.0, "3 h 20 min")]
)
def test_a_span_of_time_is_told_in_its_own_unit(seconds, words):
    assert in_words(seconds) == words
