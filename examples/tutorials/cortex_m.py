"""
Cortex-M
========

For a microcontroller, a network becomes C99 source that needs no operating system, allocation or library.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import lightning as L

import examples
import tern_lightning
from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, PruningSchedule, TernaryCallback

L.seed_everything(0)
net, data = DigitsNet(width=8), Digits(batch_size=32)
pruning, rounding = PruningSchedule(0.8, every=5), ActivationQuantization(observe_batches=20)
callbacks = [TernaryCallback(verbose=False), pruning, rounding]
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
L.Trainer(max_epochs=8, accelerator="cpu", callbacks=callbacks, **quiet).fit(net, data)

# %%
# Before anything is exported, an estimate says how long it takes and how much flash; ``source`` is where that is from.

for one in tern_lightning.estimate(
    net.eval(), ("cortex-m4", "cortex-m7"), samples=data.calibration
):
    print(f"{one.target}: {1e3 * (one.seconds or 0):.2f} ms, {one.stored_bytes:,} bytes of flash")
print(one.source)

# %%
# The export compiles the source for this machine and compares it with onnxruntime. It says how many bytes of flash and
# of memory the network takes.

folder = Path(tempfile.mkdtemp()) / "c"
lines: list[str] = []
result = tern_lightning.export(
    net.eval(), folder, target="c", samples=data.calibration, progress=lines.append
)
assert result.artifact.report is not None
print(result.artifact.report.text())
print(*(line for line in lines if "flash" in line or "arena" in line), sep="\n")
print(
    *sorted(f"{path.stat().st_size:9,} bytes  {path.name}" for path in folder.iterdir()), sep="\n"
)

# %%
# ``model.h`` is all that a program has to know:

text = (folder / "model.h").read_text()
print(
    *(
        line
        for line in text.splitlines()
        if line.startswith(("#define MODEL_", "void model", "int model"))
    ),
    sep="\n",
)

# %%
# ``examples/c`` builds a program that runs the stored sample and compares it bit for bit. With CMake, a compiler for
# the Cortex-M7 and an emulator it runs here as well (Debian: ``gcc-arm-none-eabi``, ``cmake``, ``qemu-system-arm``).

source = Path(examples.__file__).parent / "c"
tools = ("cmake", "arm-none-eabi-gcc", "qemu-system-arm")
missing = [name for name in tools if shutil.which(name) is None]
if missing:
    print(f"not run: {', '.join(missing)} is not installed")
else:
    build = folder.parent / "m7"
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={source / 'cortex-m' / 'gcc.cmake'}"
    make = ["cmake", "-S", str(source), "-B", str(build), f"-DMODEL_DIR={folder}", toolchain]
    board = ["qemu-system-arm", "-M", "mps2-an500", "-nographic", "-semihosting"]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", str(build)], check=True, capture_output=True)
    run = [*board, "-kernel", str(build / "demo.elf")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    said = done.stdout + done.stderr  # the emulator's console is the latter
    print(said)
    assert "bit for bit" in said

# %%
# On your own board, add ``model.c`` to the project of your vendor's tools and call ``model_run``.

size = sum(path.stat().st_size for path in folder.glob("model*.[ch]"))
print(f"{size:,} bytes of source; two bits a weight, or less, in flash")
