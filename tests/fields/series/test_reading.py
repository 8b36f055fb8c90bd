"""Files of series: every layout gives the same ones, times come back as they were, and what cannot be is said in a line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from sfumato.errors import DataError, Mendable, Wrong
from sfumato.fields.series import zones
from sfumato.fields.series.frequency import Frequency, anchored, found, parsed
from sfumato.fields.series.grid import Gridded, gridded
from sfumato.fields.series.pieces import Named
from sfumato.fields.series.reading import read
from tests.fields.series import worlds


def taken(path: Path, named: Named = Named(), freq: str | None = None) -> Gridded:
    return gridded(read(path, named), path, None if freq is None else parsed(freq), lambda text: None)


def test_every_layout_gives_the_same_series(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    when, columns = worlds.days(30), {"a": np.arange(30.0), "b": np.arange(30.0) ** 2}
    made = [
        worlds.wide(tmp_path / "wide.csv", when, columns),
        worlds.long(tmp_path / "long.csv", when, columns),
        worlds.long(tmp_path / "gluon.csv", when, columns, ("item_id", "timestamp", "target")),
    ]
    parquet.write_table(pa.table({"when": np.array(when, dtype="datetime64[s]"), **columns}), tmp_path / "wide.parquet")
    with (tmp_path / "list.jsonl").open("w") as file:
        for name, values in columns.items():
            file.write(json.dumps({"item_id": name, "start": when[0], "freq": "1D", "target": values.tolist()}) + "\n")
    (tmp_path / "monash.tsf").write_text(
        "# made up\n@relation x\n@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@data\n"
        + "".join(f"{name}:2021-01-01 00-00-00:{','.join(map(str, values))}\n" for name, values in columns.items())
    )
    with gzip.open(tmp_path / "wide.csv.gz", "wb") as packed:
        packed.write(made[0].read_bytes())
    for name in ("wide.csv", "long.csv", "gluon.csv", "wide.parquet", "list.jsonl", "monash.tsf", "wide.csv.gz"):
        every = taken(tmp_path / name)
        assert [line.name for line in every.lines] == ["a", "b"], name
        assert every.frequency == Frequency("s", 86_400), name
        for line, values in zip(every.lines, columns.values()):
            assert line.start == 18_628, name  # days from 1970 to 2021
            assert np.array_equal(line.values, values), name


def test_numbers_without_times_are_series_of_steps(tmp_path: Path) -> None:
    (tmp_path / "rates.txt").write_text("1.5,2\n1.6,2.5\n1.7,3\n1.8,4\n")
    every = taken(tmp_path / "rates.txt")
    assert not every.dated
    assert [line.values.tolist() for line in every.lines] == [[1.5, 1.6, 1.7, 1.8], [2, 2.5, 3, 4]]
    arrays = taken(worlds.arrays(tmp_path / "a.npz", [np.arange(5.0), np.arange(7.0)]))
    assert [len(line.values) for line in arrays.lines] == [5, 7]


@pytest.mark.parametrize(
    ("stamps", "name"),
    [
        (np.datetime64("2020-02-27T00:00") + np.arange(480) * np.timedelta64(15, "m"), "15min"),  # over a leap day
        (np.datetime64("2020-02-20") + np.arange(30), "D"),
        (np.busday_offset("2021-01-04", np.arange(40)), "B"),
        (np.datetime64("2020-01-05") + 7 * np.arange(50), "W"),
        (np.arange("2020-01", "2022-01", dtype="datetime64[M]"), "M"),
        (np.arange("2020-01", "2022-01", dtype="datetime64[M]").astype("datetime64[D]") - 1, "M"),  # ends of months
        (np.array(["2019-12", "2020-03", "2020-06", "2020-09", "2020-12"], dtype="datetime64[M]"), "Q"),
        (np.array(["2016-12-31", "2017-12-31", "2018-12-31", "2019-12-31", "2020-12-31"], dtype="datetime64[D]"), "Y"),
    ],
)
def test_a_step_is_found_and_goes_on(stamps: np.ndarray, name: str) -> None:
    seconds = stamps.astype("datetime64[s]").astype(np.int64)
    frequency = found(seconds[: len(seconds) - 2], "x")
    assert frequency.name == name
    places, exact = frequency.places(seconds)
    assert exact.all()
    assert np.array_equal(np.diff(places), np.ones(len(places) - 1))
    assert np.array_equal(frequency.stamps(places), seconds)  # the two that it was not shown come next


def test_hours_over_a_change_of_the_clocks_come_back_as_they_were(tmp_path: Path) -> None:
    stamps = np.datetime64("2021-10-30T20:00", "s").astype(np.int64) + 3600 * np.arange(16)
    walls = zones.wall(stamps, "Europe/Berlin")
    when = zones.said(walls, "", False)
    assert len(set(when)) == 15  # one hour comes twice
    path = worlds.wide(tmp_path / "x.csv", when, {"a": range(16)})
    with pytest.raises(DataError, match=r"2021-10-31T02:00:00 twice, 1 such.*--zone Europe/Berlin"):
        taken(path)
    every = taken(path, Named(zone="Europe/Berlin"))
    (line,) = every.lines
    assert np.array_equal(line.values, np.arange(16.0))
    back = every.frequency.stamps(line.start + np.arange(16))
    assert np.array_equal(back, stamps)
    told = zones.said(back, every.zone, False)
    assert told[4:7] == ["2021-10-31T02:00:00+02:00", "2021-10-31T02:00:00+01:00", "2021-10-31T03:00:00+01:00"]
    assert [text[:19] for text in told] == when
    with_zone = worlds.wide(tmp_path / "y.csv", told, {"a": range(16)})
    with pytest.raises(DataError, match="more than one zone"):
        taken(with_zone)
    assert np.array_equal(taken(with_zone, Named(zone="Europe/Berlin")).lines[0].values, np.arange(16.0))
    spring = worlds.wide(
        tmp_path / "z.csv", ["2021-03-28T01:00", "2021-03-28T02:00", "2021-03-28T03:00"], {"a": range(3)}
    )
    with pytest.raises(DataError, match=r"2021-03-28T02:00 was never shown"):
        taken(spring, Named(zone="Europe/Berlin"))


def test_a_gap_is_a_gap_and_rows_may_come_in_any_order(tmp_path: Path) -> None:
    when = worlds.days(20)
    kept = [k for k in range(20) if k not in (3, 4, 11)]
    told: list[str] = []
    path = worlds.wide(tmp_path / "x.csv", [when[k] for k in reversed(kept)], {"a": [float(k) for k in reversed(kept)]})
    every = gridded(read(path), path, None, told.append)
    assert np.array_equal(np.flatnonzero(np.isnan(every.lines[0].values)), [3, 4, 11])
    assert every.gaps == 3
    assert any("do not rise" in line for line in told)
    empty = worlds.wide(tmp_path / "y.csv", when, {"a": ["" if k in (3, 4, 11) else k for k in range(20)]})
    assert np.array_equal(taken(empty).lines[0].values, every.lines[0].values, equal_nan=True)


def test_irregular_times_are_averaged_within_steps_where_a_step_is_given(tmp_path: Path) -> None:
    when = ["2021-01-01T00:05", "2021-01-01T00:40", "2021-01-01T01:10", "2021-01-01T03:59", "2021-01-01T04:00"]
    path = worlds.wide(tmp_path / "x.csv", when, {"a": [1, 3, 5, 7, 9]})
    with pytest.raises(DataError, match="irregular"):
        taken(path)
    late = worlds.wide(
        tmp_path / "y.csv", [*worlds.days(30, "2021-01-01T00", "h"), "2021-01-02T06:20"], {"a": range(31)}
    )
    with pytest.raises(DataError, match=r"2021-01-02T06:20:00, off the steps of h \(1 such.*irregular"):
        taken(late)
    line = taken(path, freq="h").lines[0]
    assert np.array_equal(line.values, [2, 5, np.nan, 7, 9], equal_nan=True)


WRONG = {
    "a comma of thousands": (
        {"date": worlds.days(4), "a": ["1", "2", "1,234.5", "4"]},
        r"a in line 4 is '1,234.5'.*1234\.5",
    ),
    "infinity": ({"date": worlds.days(4), "a": ["1", "2", "inf", "4"]}, "a is infinite at step 3"),
    "a time twice": (
        {"date": [*worlds.days(3), "2021-01-03"], "a": [1, 2, 3, 4]},
        r"2021-01-03T00:00:00 twice, 1 such",
    ),
    "no time": ({"date": [*worlds.days(3), "soon"], "a": [1, 2, 3, 4]}, "date in line 5 is 'soon'"),
    "too few": ({"date": worlds.days(4), "a": [1, "", "", 4]}, r"no series has 3 value\(s\)"),
    "no numbers": ({"date": worlds.days(4), "a": ["x", "y", "z", "w"]}, "no column of numbers"),
    "two values": (
        {"unique_id": ["a"] * 4, "date": worlds.days(4), "p": [1, 2, 3, 4], "q": [1, 2, 3, 4]},
        r"not clear \(p, q\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said_in_a_line(name: str, tmp_path: Path) -> None:
    import csv

    columns, said = WRONG[name]
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values()))
    with pytest.raises(DataError, match=said) as caught:
        taken(path)
    assert "\n" not in str(caught.value)
    assert "x.csv" in str(caught.value)


def test_series_of_unlike_steps_are_named(tmp_path: Path) -> None:
    rows = [("a", t, 1) for t in worlds.days(20)] + [("b", t, 2) for t in worlds.days(20)]
    rows += [("c", t, 3) for t in worlds.days(20, "2021-01-01T00", "h")]
    path = tmp_path / "x.csv"
    path.write_text("unique_id,ds,y\n" + "".join(f"{a},{t},{y}\n" for a, t, y in rows))
    with pytest.raises(DataError, match="c has steps of h, most series of D"):
        taken(path)
    assert len(taken(path, freq="D").lines) == 2  # one day of hours is one value, and left out


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00\x01" * 30), "cannot be read"),
        (lambda p: p.write_text("date,a\n2021-01-01,1\n2021-01-02,1,2\n"), "cannot be read"),
        (lambda p: p.write_text("a,a\n1,2\n3,4\n5,6\n"), "two columns called a"),
    ],
)
def test_damaged_tables_are_one_line(write: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write(path)  # type: ignore[operator]
    with pytest.raises(Mendable, match=said) as caught:
        taken(path)
    assert "\n" not in str(caught.value)


def test_arrays_that_lie_are_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", values=np.arange(5.0), offsets=np.array([0, 9]))
    with pytest.raises(DataError, match="offsets must rise from 0 to the 5 values"):
        taken(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", values=np.array([{"run": 1}], dtype=object), offsets=np.array([0, 1]))
    with pytest.raises(DataError, match="Python objects"):
        taken(tmp_path / "b.npz")
    with pytest.raises(DataError, match="is none of"):
        read(Path(__file__))


def test_columns_and_steps_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = worlds.wide(tmp_path / "x.csv", worlds.days(5), {"a": range(5)})
    for named, said in (
        (Named(time="when"), "time = 'when'"), (Named(target=("b",)), "target = "
        "'b'"), (Named(known=("price",)), "known = 'price'"),
        (Named(zone="Mars/Olympus"), "zone = 'Mars/Olympus'"),
    ):  # fmt: skip
        with pytest.raises(Wrong, match=said):
            taken(path, named)
    with pytest.raises(Wrong, match="freq = 'fortnight'"):
        parsed("fortnight")


def test_covariates_end_where_the_file_does_and_have_no_gaps(tmp_path: Path) -> None:
    path = worlds.wide(tmp_path / "x.csv", worlds.days(10), {"a": [*range(7), "", "", ""], "holiday": [0] * 9 + [1]})
    (line,) = taken(path, Named(known=("holiday",), target=("a",))).lines
    assert len(line.values) == 7
    assert line.known[:, 0].tolist() == [0.0] * 9 + [1.0]
    path = worlds.wide(
        tmp_path / "y.csv", worlds.days(10), {"a": [*range(7), "", "", ""], "holiday": [0] * 8 + ["", 1]}
    )
    with pytest.raises(DataError, match="covariate 1 of a is missing at 2021-01-09"):
        taken(path, Named(known=("holiday",), target=("a",)))


def test_an_anchor_is_what_most_stamps_stand_on() -> None:
    stamps = 3600 * np.arange(10) + 900
    assert anchored(Frequency("s", 3600), stamps).anchor == 900
    assert np.array_equal(anchored(Frequency("s", 3600), stamps).stamps(np.arange(2)), [900, 4500])
