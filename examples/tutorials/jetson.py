"""
Jetson
======

A Jetson has a CPU and a GPU, and each is a target. Both are compiled on the workstation, which needs no GPU.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import lightning as L

import tern_lightning
from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, PruningSchedule, TernaryCallback
from tvm_schedules.errors import TernError

L.seed_everything(0)
net, data = DigitsNet(width=8), Digits(batch_size=32)
callbacks = [
    TernaryCallback(verbose=False),
    PruningSchedule(0.8, every=5),
    ActivationQuantization(observe_batches=20),
]
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
L.Trainer(max_epochs=8, accelerator="cpu", callbacks=callbacks, **quiet).fit(net, data)

# %%
# The CPU of an Orin has cores of the kind Cortex-A78AE, which run what is built for ``a76``. That of a Xavier or a Nano
# runs ``arm``.

folder = Path(tempfile.mkdtemp()) / "a76"
result = tern_lightning.export(net.eval(), folder, target="a76", samples=data.calibration)
assert result.artifact.report is not None
print(result.artifact.report.text())
print(f"{(folder / 'model.so').stat().st_size:,} bytes of code for the CPU")

# %%
# For the GPU the export writes CUDA source and a binary for the Jetson's generation of GPUs. That takes NVIDIA's
# compiler, which ``pip install tern-lightning[cuda]`` brings; no GPU and no driver are needed.

gpu = Path(tempfile.mkdtemp()) / "orin"
try:
    made = tern_lightning.export(net, gpu, target="jetson-orin", samples=data.calibration)
except TernError as error:
    print(f"not compiled: {error}")
else:
    for path in sorted(gpu.iterdir()):
        print(f"{path.stat().st_size:9,} bytes  {path.name}")
    print("verified" if made.artifact.report else "not verified: there is no such GPU here")
    for name in re.findall(
        r"__global__ void[^;{]*?(\w+)_kernel\(", (gpu / "kernels.cu").read_text()
    ):
        print("kernel", name)

# %%
# On the Jetson a server waits for sessions, and ``tern-bench`` verifies the network there before it measures. Nothing
# here has run on a Jetson, so what you see there is new.
#
# .. code-block:: none
#
#    jetson$ sudo nvpmodel -m 0 && sudo jetson_clocks
#    jetson$ tern-board serve --key jetson
#    ws$ ssh -N -L 9091:127.0.0.1:9090 jetson@jetson.local
#    ws$ tern-bench out/a76 --rpc 127.0.0.1:9091 --key jetson --threads 1,4
#    ws$ tern-bench out/orin --rpc 127.0.0.1:9091 --key jetson

size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
print(f"the artifact for the CPU has {size:,} bytes, {8 * size / 1e6:.2f} million bits")
