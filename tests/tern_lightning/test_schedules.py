import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.schedules import Schedule, Shape


def test_shapes_by_their_formulas():
    def at(shape, position, **options):
        return Schedule(shape, 2, 6, "epoch", initial=0.2, final=1.0, **options).value(position)

    for t in (0.0, 0.1, 0.5, 0.75):
        position = 2 + 4 * t
        assert at("linear", position) == pytest.approx(0.2 + 0.8 * t)
        # Zhu and Gupta print s_f + (s_i - s_f) (1 - t)^3.
        assert at("cubic", position) == pytest.approx(1.0 + (0.2 - 1.0) * (1 - t) ** 3)
        assert at("cosine", position) == pytest.approx(0.6 - 0.4 * math.cos(math.pi * t))
        assert at("constant", position) == 1.0
    found = [at("step", p, steps=2) for p in (1.9, 2.0, 3.9, 4.0, 5.9, 6.0)]
    assert found == pytest.approx([0.2, 0.2, 0.2, 0.6, 0.6, 1.0])


@given(
    st.sampled_from(Shape.__args__),
    st.floats(0, 5),
    st.floats(0, 5),
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.lists(st.floats(0, 20), min_size=2, max_size=2),
)
def test_every_schedule_is_monotone_from_initial_to_final(shape, begin, length, initial, final, positions):
    schedule = Schedule(shape, begin, begin + length, "step", initial, final)
    low, high = sorted(positions)
    early, late = schedule.value(low), schedule.value(high)
    assert abs(late - final) <= abs(early - final) + 1e-9
    assert schedule.value(begin + length + 1) == final
    if begin > 1e-3:
        assert schedule.value(begin - 1e-3) == initial


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "square"}, "shape"),
        ({"unit": "batch"}, "unit"),
        ({"begin": 0.6}, "begin <= end"),
        ({"begin": -1.0}, "begin"),
        ({"end": 2.0}, "at most 1"),
        ({"final": math.inf}, "finite"),
        ({"final": math.nan}, "final must be a number, got nan"),
        ({"steps": 0}, "steps"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)
