"""The multiply-add in whole numbers, for cores without floating point, against the C library's ``fmaf``."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

PROGRAM = r"""
#include <math.h>
#include <stdio.h>
static uint64_t state = 88172645463325252u;
static uint32_t draw(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 16);
}
static float number(uint32_t bits)
{
    float made;
    tern_copy_bytes(&made, &bits, sizeof made);
    return made;
}
static uint32_t bits_of(float number)
{
    uint32_t made;
    tern_copy_bytes(&made, &number, sizeof made);
    return made;
}
int main(void)
{
    long i, wrong = 0;
    for (i = 0; i < 3000000; i++) {
        float x[3], want, have;
        int k;
        for (k = 0; k < 3; k++) x[k] = number(draw()); /* everything: infinities, NaN, denormal numbers */
        if (i % 3) for (k = 0; k < 3; k++) x[k] = number((draw() & 0x807fffffu) | (115 + draw() % 24) << 23);
        if (i % 3 == 2) { /* a sum that cancels but for the last bits of its terms */
            x[0] = (float)(int16_t)draw();
            x[2] = number(bits_of(-x[0] * x[1]) + draw() % 5 - 2);
        }
        want = fmaf(x[0], x[1], x[2]), have = tern_fma(x[0], x[1], x[2]);
        wrong += bits_of(want) != bits_of(have) && !(isnan(want) && isnan(have));
    }
    printf("%ld\n", wrong);
    return 0;
}
"""


@pytest.mark.parametrize("broken", [False, True])
def test_every_bit(tmp_path: Path, broken: bool) -> None:
    compiler = next((name for name in ("gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        pytest.skip("no gcc or clang")
    source = resources.files("tvm_schedules.backends.c") / "source"
    text = "".join((source / name).read_text() for name in ("common.c", "fma.c"))
    if broken:
        text = text.replace("&& (x & 1)", "&& 1")
    (tmp_path / "fma.c").write_text(text + PROGRAM)
    command = [compiler, "-O2", "-std=c99", "-DTERN_SCALAR", "-DTERN_FIXED", str(tmp_path / "fma.c")]
    subprocess.run([*command, "-o", str(tmp_path / "fma"), "-lm"], check=True)
    wrong = int(subprocess.run([str(tmp_path / "fma")], capture_output=True, text=True, check=True).stdout)
    assert (wrong > 0) == broken
