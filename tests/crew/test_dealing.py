"""Who does what."""

import pytest

from bivlm.crew.dealing import deal, neighbours


def test_the_dearest_goes_first_and_everything_has_one_owner():
    assert deal([1, 5, 2, 4], 2) == [0, 0, 1, 1]
    assert deal([3, 3, 3], 5) == [0, 1, 2]
    assert deal([3, 1], 1) == [0, 0]
    assert deal([], 3) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_neighbours_keep_the_order_and_have_a_rank_once(size):
    for numbers in (range(10), [0, 1, 2, 4, 6, 8, 9], [5], []):
        found = list(neighbours(list(numbers), size))
        assert [number for together in found for number in together] == list(numbers)
        for together in found:
            assert len({number % size for number in together}) == len(together)


def test_samples_of_all_ranks_run_at_the_same_time():
    assert list(neighbours(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
