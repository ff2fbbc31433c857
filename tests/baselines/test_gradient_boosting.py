import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selfcell.baselines.gradient_boosting import held_out_of_each


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 99))
def test_a_tenth_of_each_class_is_held_out_and_small_classes_are_whole(sizes, seed):
    label_code = np.repeat(np.arange(len(sizes)), sizes)
    held_out = held_out_of_each(label_code, rng=np.random.default_rng(seed))
    for code, size in enumerate(sizes):
        assert held_out[label_code == code].sum() == round(0.1 * size)
