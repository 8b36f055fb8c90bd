"""Drawing for queries: a sample is its seed, its query and its place, wherever and beside whatever it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion import (
    SOLVERS,
    AdaptiveSolver,
    Blanks,
    Confidence,
    Denoiser,
    Descent,
    FromNoise,
    Gaussian,
    Linear,
    Masked,
    Parts,
    Streams,
    ab,
    generate,
    guide,
    infill,
    key,
    sample,
    tree,
    uniform,
    walk,
)
from sfumato.diffusion.generate import streams
from sfumato.diffusion.sample import Euler
from tests.laws.eight import ROWS, VOCAB, WORLDS, tokens_answered
from tests.laws.worlds import F64, normal, scalar

PROCESS = Gaussian(Linear(), "data")


def network(shown: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
    """Matrix products, as real ones have: whose rounding depends on the size of the batch."""
    first = torch.sin(normal(6, 16).float() + 0.1)
    hidden = torch.tanh(shown.flatten(1) @ first + level[:, None] + (0 if label is None else label[:, None]))
    return (hidden @ first.T).reshape(shown.shape)


DENOISER = Denoiser(network, PROCESS)
PLAIN = Blanks(torch.zeros(2, 3), 12, {"label": torch.tensor([0.0, 1.0, 2.0])})


def every(guess: Any, queries: Any, numbers: Any, **options: Any) -> dict[int, Any]:
    """number -> its sample."""
    return {
        number: tree.take(drawn.x, slice(i, i + 1))
        for drawn in generate(guess, queries, numbers, **options)
        for i, number in enumerate(drawn.numbers)
    }


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


ORDERS: dict[str, Any] = {
    "backwards": range(11, -1, -1),
    "some": [7, 3, 11],
    "one": [3],
    "another one": [11],
    "mixed": [2, 9, 0, 11, 5, 3, 7],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("solver", ["euler", "ancestral", "ab3", "churn", "predictor_corrector", "dpmpp_2m"])
def test_a_sample_is_the_same_to_the_bit_in_any_list(order: str, solver: str) -> None:
    options: dict[str, Any] = {"seed": 5, "solver": SOLVERS[solver], "batch": 4, "begin": FromNoise(6)}
    whole = every(DENOISER, PLAIN, range(12), **options)
    assert list(whole) == list(range(12))
    found = every(DENOISER, PLAIN, ORDERS[order], **options)
    assert list(found) == list(ORDERS[order])
    assert all(same(found[i], whole[i]) for i in found)


@pytest.mark.parametrize("batch", [1, 3, 12, 64])
def test_with_another_batch_it_is_the_same_but_for_rounding(batch: int) -> None:
    whole = every(DENOISER, PLAIN, range(12), solver=Euler(1.0), batch=4)
    for i, x in every(DENOISER, PLAIN, range(12), solver=Euler(1.0), batch=batch).items():
        assert (x - whole[i]).abs().max() < 1e-4


@pytest.mark.parametrize("name", [name for name in WORLDS if name != "product"])
def test_in_every_world(name: str) -> None:
    """Alone and among others, to the bit; and it is the world's own noise that is walked from."""
    world = WORLDS[name]
    blank = torch.zeros_like(world.x[0])
    if name.startswith(("geodesic", "heat")):
        blank = world.x[0]  # shapes and types count, not values
    queries = Blanks(blank, 5)
    options: dict[str, Any] = {"batch": 3, "begin": FromNoise(4, uniform), "seed": 1}
    whole = every(world.denoiser, queries, range(5), **options)
    assert all(world.lies(x) for x in whole.values())
    for i in (4, 1):
        assert same(every(world.denoiser, queries, [i], **options)[i], whole[i])
    rng = Streams(key("sample", 1), [0, 1, 2])
    z = world.process.prior(torch.stack([blank] * 3), rng)
    by_hand = sample(world.denoiser, z, uniform(world.process.schedule, 4), rng=rng)
    assert all(same(by_hand[i : i + 1], whole[i]) for i in range(3))


def test_another_seed_or_stream_is_another_sample() -> None:
    first = every(DENOISER, PLAIN, [0, 1])
    for other in ({"seed": 1}, {"stream": ("again", 1)}, {"stream": ("again", 2)}):
        found = every(DENOISER, PLAIN, [0, 1], **other)
        assert not any(same(found[i], first[i]) for i in (0, 1))
    assert same(first[0], every(DENOISER, PLAIN, [0, 1], seed=0, stream=("sample",))[0])
    assert not same(
        every(DENOISER, PLAIN, [0], stream=("again", 1))[0], every(DENOISER, PLAIN, [0], stream=("again", 2))[0]
    )


# ---- queries with names ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ensembles:
    """``members`` samples of each of some named starts, whose condition is a number."""

    starts: tuple[tuple[str, float], ...]
    members: int
    buckets: Any = None

    def __len__(self) -> int:
        return len(self.starts) * self.members

    def name(self, number: int) -> tuple[str, int]:
        return self.starts[number // self.members][0], number % self.members

    def batch(self, numbers: Sequence[int]) -> Mapping[str, Any]:
        label = torch.tensor([self.starts[number // self.members][1] for number in numbers])
        return {"x": torch.zeros(len(numbers), 2, 3), "label": label, "aside": {"start": label * 10}}


def by_name(queries: Any, **options: Any) -> dict[tuple[str, int], Tensor]:
    found = every(DENOISER, queries, range(len(queries)), solver=Euler(1.0), batch=4, begin=FromNoise(5), **options)
    return {queries.name(number): x for number, x in found.items()}


def test_a_member_is_the_same_in_any_ensemble_and_in_any_list() -> None:
    few = by_name(Ensembles((("monday", 0.5), ("tuesday", 1.0)), 2))
    many = by_name(Ensembles((("tuesday", 1.0), ("sunday", 0.0), ("monday", 0.5)), 5))
    alone = by_name(Ensembles((("monday", 0.5),), 3))
    assert all(torch.equal(few[name], many[name]) for name in few)
    assert all(torch.equal(alone[name], many[name]) for name in alone)
    assert len({tuple(x.flatten().tolist()) for x in many.values()}) == 15  # no two alike
    assert not any(torch.equal(x, few[name]) for name, x in by_name(
        Ensembles((("monday", 0.5), ("tuesday", 1.0)), 2), seed=1).items())  # fmt: skip


def test_members_of_two_starts_do_not_share_their_noise() -> None:
    same_place = by_name(Ensembles((("a", 0.5), ("b", 0.5)), 3))
    assert not any(torch.equal(same_place["a", i], same_place["b", i]) for i in range(3))


# ---- batches -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """Samples of several lengths: a batch is of one."""

    lengths: tuple[int, ...]

    @property
    def buckets(self) -> Sequence[int]:
        return self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def name(self, number: int) -> tuple[str, int]:
        return "", number

    def batch(self, numbers: Sequence[int]) -> Mapping[str, Any]:
        (length,) = {self.lengths[number] for number in numbers}
        return {"x": torch.zeros(len(numbers), length, dtype=F64)}


def test_buckets_are_drawn_apart_and_none_is_lost() -> None:
    sizes = []

    def square(shown: Tensor, level: Tensor) -> Tensor:
        sizes.append(tuple(shown.shape))
        return shown.sin()

    queries, guess = Lengths((3, 5, 3, 3, 5, 7, 3)), Denoiser(square, PROCESS)
    drawn = list(generate(guess, queries, [6, 0, 1, 2, 3, 4, 5], batch=2, begin=FromNoise(1)))
    assert [list(d.numbers) for d in drawn] == [[6, 0], [2, 3], [1, 4], [5]]
    assert all(d.x.shape == (len(d.numbers), queries.lengths[d.numbers[0]]) for d in drawn)
    assert sizes == [(2, 3), (2, 3), (2, 5), (2, 7)]  # the network sees full batches only
    alone = {number: every(guess, queries, [number], batch=2, begin=FromNoise(1))[number] for number in range(7)}
    for d in drawn:
        assert all(torch.equal(d.x[i], alone[number][0]) for i, number in enumerate(d.numbers))


def test_the_query_comes_back_with_its_samples() -> None:
    for drawn in generate(DENOISER, Ensembles((("monday", 0.5), ("sunday", 2.0)), 3), [5, 0, 4, 1, 2], batch=2):
        wanted = [0.5 if number < 3 else 2.0 for number in drawn.numbers]
        assert drawn.query["label"].tolist() == wanted
        assert drawn.query["aside"]["start"].tolist() == [10 * w for w in wanted]
        assert len(drawn.x) == len(drawn.numbers)


def test_conditions_go_to_their_rows_and_what_is_aside_to_none() -> None:
    seen = []

    def listening(shown: Tensor, level: Tensor, **condition: Any) -> Tensor:
        seen.append(condition)
        return shown

    list(generate(Denoiser(listening, PROCESS), Ensembles((("a", 0.5), ("b", 2.0)), 2), [3, 0, 2], batch=3))
    assert all(list(condition) == ["label"] for condition in seen)
    assert all(condition["label"].tolist() == [2.0, 0.5, 2.0] for condition in seen)


def test_begin_and_guide_are_told_the_query() -> None:
    """From the middle of the way, each row from its own place; and guided as the query asks."""
    starts = Ensembles((("a", 0.5), ("b", 2.0)), 2)

    def begin(process: Any, z: Tensor, query: Any) -> tuple[Tensor, Tensor]:
        x = query["aside"]["start"][:, None, None].expand(z.shape)
        return process.interpolate(x, z, scalar(0.25)), torch.tensor([0.25, 0.0], dtype=F64)

    def ask(guess: Any, query: Any) -> Any:
        return guide(guess, query["aside"]["start"].double() / 10)

    found = every(Denoiser(lambda shown, level, label: shown * 0 + label[:, None, None], PROCESS), starts, range(4),
                  begin=begin, guide=ask, batch=3)  # fmt: skip
    for number, x in found.items():
        label = 0.5 if number < 2 else 2.0
        assert x.unique().tolist() == pytest.approx([label * label])  # w = label, and 0 without it


def test_a_walk_begins_where_begin_says() -> None:
    """A warm start: the walk by hand from the same place is the same."""
    starts, times = Ensembles((("a", 0.5), ("b", 2.0)), 2), torch.tensor([0.4, 0.2, 0.0], dtype=F64)

    def warm(process: Any, z: Tensor, query: Any) -> tuple[Tensor, Tensor]:
        return process.interpolate(query["aside"]["start"][:, None, None].expand(z.shape), z, times[0]), times

    found = every(DENOISER, starts, range(4), begin=warm, batch=4)
    rng = streams(starts, range(4), 0, ("sample",))
    query = starts.batch(range(4))
    begun, _ = warm(PROCESS, PROCESS.prior(query["x"], rng), query)
    with torch.no_grad():
        for by_hand, _ in walk(DENOISER, None, times, Euler(), rng, x_t=begun, label=query["label"]):  # noqa: B007
            pass
    assert all(torch.equal(found[i][0], by_hand[i]) for i in range(4))
    cold = every(DENOISER, starts, range(4), batch=4)
    assert all((cold[i] - found[i]).abs().max() > 1e-2 for i in range(4))


def test_the_guesss_own_process_is_begun_on() -> None:
    """``infill`` wraps the process, too: what is known stands from the start."""
    known = torch.tensor([[1, 0, 2, 3]])
    where = torch.tensor([[True, False, False, True]])
    world = Denoiser(tokens_answered, Masked(VOCAB))
    states = every(world, Blanks(torch.zeros(4, dtype=torch.int64), 5), range(5), batch=2, solver=Confidence(1.0),
                   guide=lambda guess, query: infill(guess, known, where))  # fmt: skip
    assert all(x[0, 0] == 1 and x[0, 3] == 3 for x in states.values())


# ---- what is seen and counted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORLDS)
def test_looking_shows_the_guess_as_data(name: str) -> None:
    world, seen = WORLDS[name], []
    blank = tree.each(lambda v: v[:1], world.x)

    class One:
        buckets = None

        def __len__(self) -> int:
            return ROWS

        def name(self, number: int) -> tuple[str, int]:
            return "", number

        def batch(self, numbers: Sequence[int]) -> Mapping[str, Any]:
            if name == "product":
                return {"x": tree.take(world.x, torch.tensor(list(numbers)))}
            return {"x": tree.take(blank, torch.zeros(len(numbers), dtype=torch.int64))}

    def look(numbers: Sequence[int], step: int, steps: int, data: Any) -> None:
        seen.append((list(numbers), step, steps, data))

    looked = every(world.denoiser, One(), range(ROWS), batch=2, begin=FromNoise(4, uniform), look=look)
    assert [(numbers, step, steps) for numbers, step, steps, _ in seen] == [
        (numbers, step, 4) for numbers in ([0, 1], [2]) for step in (1, 2, 3, 4)
    ]
    for numbers, _, _, data in seen:
        assert tree.rows(data) == len(numbers)
        if name != "product":
            assert world.lies(data)
    plain = every(world.denoiser, One(), range(ROWS), batch=2, begin=FromNoise(4, uniform))
    assert all(same(looked[i], plain[i]) for i in plain)  # looking changes nothing
    if name in ("gaussian", "one_hot"):  # the last step goes to the guess itself
        assert torch.allclose(torch.cat([seen[3][3], seen[7][3]]).double(), torch.cat(list(plain.values())).double())


def test_calls_are_counted_where_a_solver_counts_them() -> None:
    asked = []

    def counted(shown: Tensor, level: Tensor) -> Tensor:
        asked.append(len(shown))
        return torch.tanh(3 * shown)

    for solver in (AdaptiveSolver(), Euler()):
        for drawn in generate(Denoiser(counted, PROCESS), Blanks(torch.zeros(4, dtype=F64), 5), range(5), batch=2,
                              solver=solver, begin=FromNoise(3)):  # fmt: skip
            calls = len(asked)
            asked.clear()
            assert (solver == Euler()) == ("calls" not in drawn.scores)
            if solver != Euler():
                assert drawn.scores["calls"].shape == (len(drawn.numbers),)
                assert drawn.scores["calls"].dtype == torch.int64
                assert 0 < int(drawn.scores["calls"].max()) <= calls
                if len(drawn.numbers) == 1:  # the row that fills the batch up is a copy
                    assert int(drawn.scores["calls"]) == calls
    world = WORLDS["equilibrium"]
    for drawn in generate(world.denoiser, Blanks(torch.zeros(4, 2, dtype=F64), 3), range(3), batch=2,
                          solver=Descent(most=7, tol=1e-9), begin=FromNoise(3)):  # fmt: skip
        assert drawn.scores["calls"].tolist() == [21] * len(drawn.numbers)  # three walks of seven calls


def test_a_nested_product_with_clean_values() -> None:
    """The values of its clean parts are the query's; each row has its own."""
    world = WORLDS["product"]

    class Labelled:
        buckets = None

        def __len__(self) -> int:
            return ROWS

        def name(self, number: int) -> tuple[str, int]:
            return "thing", number

        def batch(self, numbers: Sequence[int]) -> Mapping[str, Any]:
            return {"x": tree.take(world.x, torch.tensor(list(numbers)))}

    solver = Parts({"place": ab(2), "inner": Parts({"text": Confidence(0.5)})})
    options: dict[str, Any] = {"batch": 2, "solver": solver, "begin": FromNoise(6, uniform)}
    whole = every(world.denoiser, Labelled(), range(ROWS), **options)
    assert world.lies(tree.join(*(whole[i] for i in range(ROWS))))
    assert [int(whole[i]["label"]) for i in range(ROWS)] == [0, 1, 2]
    assert same(every(world.denoiser, Labelled(), [2], **options)[2], whole[2])


def test_nothing_is_asked_for() -> None:
    assert list(generate(DENOISER, PLAIN, [])) == []
    assert len(PLAIN) == 12
    with pytest.raises(ValueError, match="a condition cannot be called 'aside'"):
        Blanks(torch.zeros(2), 3, {"aside": torch.zeros(3)})
