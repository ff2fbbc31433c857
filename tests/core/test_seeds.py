from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.seeds import derive_seed, numpy_rng


@given(st.integers(0, 2**31), st.text(max_size=20), st.integers(0, 10_000))
def test_a_stream_is_a_function_of_seed_name_and_place(seed, stream, place):
    assert derive_seed(seed, stream, place) == derive_seed(seed, stream, place)
    assert 0 <= derive_seed(seed, stream, place) < 2**63


def test_streams_differ_by_seed_name_and_place():
    seeds = {derive_seed(seed, stream, place) for seed in range(5) for stream in ("a", "b") for place in range(20)}
    assert len(seeds) == 5 * 2 * 20


def test_numbers_of_a_stream_do_not_depend_on_other_draws():
    first = numpy_rng(1, "masks", 3).random(4)
    numpy_rng(1, "order").random(1000)
    assert (numpy_rng(1, "masks", 3).random(4) == first).all()
