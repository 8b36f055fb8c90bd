"""Buckets: whole pictures, near their own proportions, in sizes of one area whose sides are multiples of the patch."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from sfumato.fields.captions.sizes import AREA, MOST, WIDEST, buckets, sizes


@pytest.mark.parametrize(("side", "patch"), [(48, 6), (64, 8), (32, 4), (512, 32), (24, 3), (16, 16)])
def test_sides_are_multiples_and_areas_alike(side: int, patch: int) -> None:
    found = sizes(side, patch)
    assert found[0] == (side, side)
    assert len(set(found)) == len(found)
    for height, width in found:
        assert height % patch == width % patch == 0
        assert abs(height * width / side**2 - 1) <= AREA
        assert max(height, width) <= WIDEST * min(height, width)
        assert (width, height) in found


def test_every_picture_goes_to_the_nearest_proportions() -> None:
    shapes = [(100, 100)] * 40 + [(90, 160)] * 30 + [(160, 90)] * 20 + [(100, 104)] * 20
    chosen, place = buckets(shapes, 64, 8, least=16)
    every = sizes(64, 8)
    for shape, number in zip(shapes, place):
        off = [abs(math.log(shape[0] / shape[1]) - math.log(h / w)) for h, w in every]
        assert chosen[number] == every[off.index(min(off))]
    counts = Counter(place)
    assert [counts[i] for i in range(len(chosen))] == sorted(counts.values(), reverse=True)


def test_buckets_of_few_are_given_up_and_none_is_lost() -> None:
    shapes = [(100, 100)] * 40 + [(50, 200)] * 3 + [(200, 50)] * 20
    chosen, place = buckets(shapes, 64, 8, least=16)
    assert len(place) == len(shapes)
    assert min(Counter(place).values()) >= 16
    assert (32, 128) not in chosen
    assert chosen[place[0]] == chosen[place[41]] == (64, 64)
    many = [(64 + i, 64 + 7 * j) for i in range(40) for j in range(40)]
    assert len(buckets(many, 512, 8, least=1)[0]) <= MOST
    assert buckets([(10, 300)], 64, 8, least=16)[1] == [0]
