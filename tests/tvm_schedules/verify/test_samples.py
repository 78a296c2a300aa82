"""Samples cut into runs."""

from __future__ import annotations

import numpy as np

from tvm_schedules.verify.samples import split_samples


def test_a_single_number_is_the_same_in_every_run() -> None:
    entries = [
        {"name": "x", "shape": [1, 3], "dtype": "float32"},
        {"name": "rate", "shape": [], "dtype": "int64"},
    ]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    runs = split_samples(entries, [x, np.array(16000)])
    assert [(run["x"].tolist(), int(run["rate"])) for run in runs] == [([[0, 1, 2]], 16000), ([[3, 4, 5]], 16000)]
