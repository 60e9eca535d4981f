"""One element that is no number is found, wherever it stands and whatever the tensor is like."""

import pytest
import torch

from evalkit.weights.finite import is_finite

HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_element_is_found(dtype, value):
    for size in (1, 7, 16, 33, 4099):
        for place in {0, size // 2, size - 1}:
            numbers = torch.randn(size, generator=torch.Generator().manual_seed(size))
            assert is_finite(numbers.to(dtype))
            numbers[place] = value
            spoiled = numbers.to(dtype)
            for shaped in (spoiled, spoiled.reshape(1, -1), spoiled.reshape(-1, 1).T):
                assert not is_finite(shaped), (size, place)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_the_largest_numbers_and_none_at_all_are_fine(dtype):
    assert is_finite(torch.full((1000,), torch.finfo(dtype).max, dtype=dtype))
    assert is_finite(torch.zeros(0, 3, dtype=dtype))
