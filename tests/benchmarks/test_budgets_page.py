"""What the page about budgets says of rows."""

from __future__ import annotations

from benchmarks.budgets_page import budgets


def test_gains_are_differences_seed_by_seed() -> None:
    accuracies = {"uniform": (0.90, 0.92), "budget": (0.91, 0.93), "grouped": (0.89, 0.93)}
    rows = [
        {
            "seed": seed,
            "zeros": 0.8,
            "how": how,
            "accuracy": value,
            "sparsity": 0.81,
            "estimate_ms": 0.5,
            "measured_ms": 0.6,
        }
        for how, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    about = {"data": "fashion-mnist", "images": 60000, "plan": {"float_epochs": 4, "epochs": 3}, "float": [0.9, 0.92]}
    about |= {"machine": {"cpu": "Some CPU"}, "when": "2000-01-01", "command": "python -m benchmarks.budgets --write"}
    loose = [
        {**rows[0], "how": how, "float_layers": count} for how, count in (("uniform", 2), ("budget", 2), ("float", 5))
    ]
    text = "\n".join(budgets({"rows": rows, **about}, {"rows": loose, **about, "float": [0.9]}))
    assert "stay float beside the first and the last is 3.0 at 80%" in " ".join(text.split())
    assert "| 80%: the same zeros in every layer | 91.00 |  | 81.0 | 0.5000 | 0.6000 |" in text
    assert "| 80%: a budget | 92.00 | +1.00 ± 0.00 | 81.0 | 0.5000 | 0.6000 |" in text
    assert "| 80%: a budget that chooses groups | 91.00 | +0.00 ± 1.41 |" in text
    assert "one thread of an Some CPU, 2000-01-01: `python -m benchmarks.budgets --write`" in text.replace("\n", " ")
