"""What reads the files that a report is made of."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.fuzz import mutate
from tests.fuzz.registry import Reader, reader, written


@reader("report", 1500)
def report(folder: Path) -> Reader:
    from tests.tvm_schedules.report.documents import BENCH, INSPECTION, training
    from tvm_schedules.errors import TernError
    from tvm_schedules.report.headline import table
    from tvm_schedules.report.page import page
    from tvm_schedules.report.run import read_run

    def use(path: Path) -> None:
        run = read_run(path)
        table([run])
        page([run])

    def make(random: Random, _: Path) -> bytes:
        return mutate.damaged_json(random.choice([BENCH, INSPECTION, training()]), random)

    return Reader(make, written("run.json", use), (TernError,))
