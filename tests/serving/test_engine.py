"""The engine: whoever walks together, each gets the sample that it gets alone; nobody waits for ever; no call is wasted."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.serving.engine import QUANTUM, Call, Cancelled, Engine, Line
from sfumato.serving.fair import PATIENCE
from tests.serving.small import Exact, Told, alone, close, row, run_out, walker

GUIDED = [(1.0, 0.0, 1.0), (2.5, 0.0, 1.0), (0.0, 0.0, 1.0), (3.0, 0.3, 0.7), (0.0, 0.2, 0.6), (4.0, 0.9, 1.0)]
DETERMINISTIC = ("euler", "heun", "dpmpp_2m", "ab2", "ab3", "ab4", "unipc")
RANDOM = ("ancestral", "churn", "predictor_corrector")


def mixture(model: Exact, owner: Told, solver: str, count: int = 14) -> list[tuple]:
    """Rows of every kind of steps, grid, guidance and mean, beside how they are drawn alone."""
    of, found = walker(model, solver), []
    for number in range(count):
        w, low, high = GUIDED[number % len(GUIDED)]
        steps, shape, mean = 2 + 3 * number % 11, ("cosine", "uniform", "late")[number % 3], number / 3 - 2
        away = number % 4 - 1.5
        found.append((row(model, owner, number, steps, w=w, low=low, high=high, mean=mean, shape=shape, of=of, away=away),
                      (w, mean, low, high, away)))  # fmt: skip
    return found


@pytest.mark.parametrize("solver", DETERMINISTIC + RANDOM)
def test_every_row_is_the_sample_that_it_is_alone(solver: str):
    """Rows of one solver with steps, times, guidance, intervals and conditions of their own, in batches that change all the
    time: each is the sample of its seed, as a batch of one draws it."""
    model, owner = Exact(), Told()
    engine = Engine(lambda key: 5)
    rows = mixture(model, owner, solver)
    for each, _ in rows[:9]:
        engine.enter([each])
    for _ in range(3):
        engine.turn()
    engine.enter([each for each, _ in rows[9:]])
    run_out(engine)
    assert owner.error is None
    assert sorted(owner.found) == list(range(len(rows)))
    assert max(engine.counts.sizes) > 1, "nothing walked together"
    for each, how in rows:
        assert close(owner.found[each.number], alone(each, *how)), each.number


def test_the_law_of_the_flow_holds_for_whoever_walks_along():
    """DDIM of normal data is known in closed form: each step multiplies what is left of the noise, whatever else is in the
    batch."""
    model, owner = Exact(), Told()
    engine = Engine(lambda key: 4)
    rows = [row(model, owner, i, steps=3 + i, mean=float(i)) for i in range(9)]
    starts = {each.number: each.begin() for each in rows}
    for each in rows:
        engine.enter([each])
    run_out(engine)
    for i, (x, times, _) in starts.items():
        wanted = x[0]
        for t, s in pairwise(times):
            a, b = (model.process.schedule.alpha(u)[0] for u in (t, s))
            c, d = (model.process.schedule.sigma(u)[0] for u in (t, s))
            gain = (0.25 * a * b + c * d) / (0.25 * a**2 + c**2)
            wanted = b * i + gain * (wanted - a * i)
        assert close(owner.found[i][0], wanted, 1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12))
def test_no_order_of_arrival_and_no_cap_changes_a_sample(seed: int, cap: int, count: int):
    draw = random.Random(seed)
    model, owner = Exact(), Told()
    engine = Engine(lambda key: cap)
    kinds = [
        (draw.choice(DETERMINISTIC[:4]), draw.randint(1, 7), draw.choice(GUIDED), draw.random()) for _ in range(count)
    ]
    rows = [(row(model, owner, i, steps, solver, w, mean, low, high), (w, mean, low, high))
            for i, (solver, steps, (w, low, high), mean) in enumerate(kinds)]  # fmt: skip
    waiting = [each for each, _ in rows]
    draw.shuffle(waiting)
    while waiting:
        engine.enter([waiting.pop()])
        for _ in range(draw.randint(0, 3)):
            engine.turn()
    run_out(engine)
    for each, how in rows:
        assert close(owner.found[each.number], alone(each, *how))


def test_no_call_is_wasted():
    """Of Euler each step is one row of a call, two where it is guided at that time, whoever else is in the batch."""
    model, owner = Exact(), Told()
    engine = Engine(lambda key: 6)
    rows = [row(model, owner, i, steps=4 + i, w=w, low=low, high=high) for i, (w, low, high) in enumerate(GUIDED)]
    wanted = 0
    for each in rows:
        _, times, _ = each.begin()
        for t in list(times)[:-1]:
            guided = "weak" in each.sides and each.low <= float(t) <= each.high
            whole = each.w == 0 and guided
            wanted += 2 if guided and not whole else 1
        engine.enter([each])
    run_out(engine)
    assert model.rows == wanted == engine.counts.rows


def test_a_last_step_that_asks_once_is_walked_apart_from_those_that_ask_twice():
    """Heun's method asks twice a step, and once in the last one: no call more, whoever else is under way."""
    model, owner = Exact(), Told()
    engine = Engine(lambda key: 6)
    of = walker(model, "heun")
    engine.enter([row(model, owner, i, steps=2 + i, of=of) for i in range(5)])
    run_out(engine)
    assert sorted(owner.found) == list(range(5))
    assert model.rows == sum(2 * (2 + i) - 1 for i in range(5))


def test_a_row_that_has_gone_is_in_no_further_call_and_the_others_do_not_notice():
    model, owner, gone = Exact(), Told(), Told()
    engine = Engine(lambda key: 8)
    of = walker(model)
    rows = [row(model, owner, i, steps=9, of=of) for i in range(3)]
    engine.enter(rows)
    engine.enter([row(model, gone, 7, steps=50, of=of)])
    for _ in range(4):
        engine.turn()
    before = model.rows
    gone.gone = True
    engine.turn()
    assert model.rows - before == 3
    assert isinstance(gone.error, Cancelled)
    assert len(engine.rows) == 3
    late = Told()
    leaves = [row(model, each, 8, steps=9, of=of) for each in (Told(), late)]
    engine.enter(leaves[:1])
    engine.turn()
    leaves[0].owner.gone = True
    engine.enter(leaves[1:])  # one comes as another goes
    engine.turn()
    assert late.steps == [(8, 1)]
    run_out(engine)
    assert close(late.found[8], alone(leaves[1], 1.0, 1.0))
    assert all(close(owner.found[i], alone(rows[i], 1.0, 1.0)) for i in range(3))


def test_a_short_walk_does_not_wait_for_long_ones():
    """Four steps asked for while batches full of 200 are under way are done within 4 turns of their own and the quantum."""
    model, long, short = Exact(), Told(), Told()
    engine = Engine(lambda key: 4)
    of = walker(model)
    engine.enter([row(model, long, i, steps=200, of=of) for i in range(12)])
    for _ in range(10):
        engine.turn()
    engine.enter([row(model, short, 99, steps=4, of=of)])
    turns = 0
    while 99 not in short.found:
        engine.turn()
        turns += 1
    assert turns <= 4 + QUANTUM
    run_out(engine)
    assert len(long.found) == 12


def test_whoever_asks_for_the_bits_waits_in_the_same_line():
    model, owner = Exact(), Told()
    engine = Engine(lambda key: 4)
    engine.enter([row(model, owner, 0, steps=30)])
    thread = threading.Thread(target=engine.run, daemon=True)
    thread.start()
    assert engine.call(lambda: 5, "b", 1, Line(1), lambda: False) == 5
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0, "b", 1, Line(1), lambda: False)
    with pytest.raises(Cancelled):
        engine.call(lambda: 5, "b", 1, Line(1), lambda: True)
    engine.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_done_call_by_call_waits_as_one_and_not_anew_for_each_call():
    """Short rows come without end, each shorter than what is left of twenty calls: these are made within four times their own
    length, and not each of them after four times that."""
    model, engine, line, turns = Exact(), Engine(lambda key: 1), Line(20), 0
    for number in range(20):
        call = Call(lambda: None, "", 1, line, lambda: False)
        engine.inbox.append(call)
        while not call.done.is_set():
            engine.enter([row(model, Told(), 1000 * number + turns, steps=2)])
            engine.turn()
            turns += 1
            assert turns <= (PATIENCE + 2) * 20 + QUANTUM


def test_what_breaks_a_step_breaks_it_for_those_in_it_alone():
    class Broken(Exact):
        def __call__(self, x_t, t, s=None, **known):
            raise RuntimeError("a bug")

    model, bad, good = Broken(), Told(), Told()
    engine = Engine(lambda key: 4)
    engine.enter([row(model, bad, 0)])
    engine.enter([row(Exact(), good, 1)])
    run_out(engine)
    assert str(bad.error) == "a bug"
    assert good.error is None
    assert 1 in good.found


def test_where_memory_runs_out_smaller_batches_begin_again_with_the_same_noise():
    """Also where it runs out on the way, when the streams have been drawn from already."""

    class Small(Exact):
        def __call__(self, x_t, t, s=None, **known):
            if len(x_t) > 2 and self.calls >= 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(x_t, t, s, **known)

    model, owner = Small(), Told()
    engine = Engine(lambda key: 8)
    of = walker(model, "churn")
    rows = [row(model, owner, i, steps=5, of=of) for i in range(7)]
    for each in rows:
        engine.enter([each])
    run_out(engine)
    assert owner.error is None
    assert all(close(owner.found[each.number], alone(each, 1.0, 1.0)) for each in rows)
