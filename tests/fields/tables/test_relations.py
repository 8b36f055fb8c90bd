"""What made linked tables are compared by."""

from pathlib import Path

import numpy as np
import pytest

from sfumato.fields.tables.families import sides
from sfumato.fields.tables.linked import parents
from sfumato.fields.tables.relations import one_each, without_parent
from tests.fields.tables.shop import folder, shop
from tests.fields.tables.test_linked import ready


def test_of_each_parent_one_row_is_compared_and_orphans_in_their_share(tmp_path: Path) -> None:
    """Of all rows, and of a part in which nearly all rows are orphans."""
    facts, _ = ready(folder(tmp_path / "shop"), tmp_path)
    member, real = facts["orders"], shop()
    link = member.entry.links[member.driver]
    alone = without_parent(real["orders"], member, real)
    assert alone == pytest.approx(0.1, abs=0.005)
    whose = parents(real["orders"], link, real["customers"])
    for some in (np.arange(len(whose)), np.flatnonzero((whose < 0) | (whose % 5 == 0))):
        part = real["orders"].take(some)
        chosen = whose[some][one_each(part, member, real, alone)]
        ones = chosen[chosen >= 0]
        assert sorted(ones) == sorted(set(whose[some]) - {-1, -2})
        assert np.mean(chosen < 0) == pytest.approx(alone, abs=1 / len(chosen))


def test_rows_that_are_held_out_are_not_the_first_of_their_families() -> None:
    """400 families of 100 rows in the order of time: the mean time of those held out is that of all, within five errors."""
    families, time = np.tile(np.arange(400), 100), np.repeat(np.arange(100), 400)
    train, held = sides(families, 0.1)
    assert len(held) == 2000
    assert not set(families[train]) & set(families[held])
    assert time[held].mean() == pytest.approx(49.5, abs=5 * 29 / 2000**0.5)
