"""
Raspberry Pi
============

The workstation compiles for the board's CPU, here that of a Raspberry Pi 4. The board compiles nothing.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import lightning as L

import tern_lightning
from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, TernaryCallback
from tvm_schedules.errors import TernError

L.seed_everything(0)
net, data = DigitsNet(width=8), Digits(batch_size=32)
callbacks = [TernaryCallback(verbose=False), ActivationQuantization(observe_batches=20)]
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
L.Trainer(max_epochs=5, accelerator="cpu", callbacks=callbacks, **quiet).fit(net, data)

# %%
# ``pi3``, ``pi4`` and ``pi5`` name the boards' cores; ``arm`` runs on all of them, and is slower. This machine cannot
# run the library. So the export compiles the same graph for this machine too, and compares that with onnxruntime.

places = {name: Path(tempfile.mkdtemp()) / name for name in ("pi4", "pi5", "host")}
for name, folder in places.items():
    result = tern_lightning.export(net.eval(), folder, target=name, samples=data.calibration)
    assert result.artifact.report is not None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    print(
        f"{name:5} model.so {sizes['model.so']:8,} bytes, weights {sizes['weights.npz']:7,} bytes"
    )
print(result.artifact.report.text())

# %%
# The artifact knows which instructions it needs. A board that lacks one of them says so before anything runs: a Pi 5
# can multiply four bytes at a time (``dotprod``), which a Pi 4 cannot.

for name in ("pi4", "pi5"):
    target = json.loads((places[name] / "metadata.json").read_text())["target"]
    print(name, "needs", ", ".join(target["features"]))

# %%
# It does not load here, unless this machine is such a board:

import tvm_schedules  # noqa: E402  # here, where it is used first

try:
    print(tvm_schedules.load(places["pi4"]))
except TernError as error:
    print(error)

# %%
# On the board, in a virtual environment with ``pip install tern-lightning[board,bench]``, a server waits for sessions.
# It listens on the board alone, and ssh brings the connection there:
#
# .. code-block:: none
#
#    pi$ tern-board serve
#    ws$ ssh -N -L 9090:127.0.0.1:9090 pi@raspberrypi.local
#    ws$ tern-bench out/pi4 --rpc 127.0.0.1:9090 --threads 1,4
#
# ``tern-bench`` first runs the stored samples there and compares them. If they agree, it measures the library and
# onnxruntime beside each other. The page about boards says what else it prints, and what errors mean.
