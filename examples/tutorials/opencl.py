"""
OpenCL
======

The same network as OpenCL kernels, which run without TVM on any device with a driver: a graphics processor,
or, as here, the CPU through PoCL (Debian: ``apt install pocl-opencl-icd``).
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

import tern_lightning
import tvm_schedules
from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, TernaryCallback
from tvm_schedules.errors import DeviceError

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
# The export writes source: kernels, and the list of launches that make the network. No driver is needed for
# that. Where there is one, the kernels are run and compared with onnxruntime before anything is written.

folder = Path(tempfile.mkdtemp()) / "opencl"
result = tern_lightning.export(net.eval(), folder, target="opencl", samples=data.calibration)
print(
    result.artifact.report.text()
    if result.artifact.report
    else "there is no OpenCL driver: nothing was verified"
)
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size:9,} bytes  {path.name}")

# %%
# ``load`` takes the first device; the environment variable ``TERN_OPENCL_DEVICE`` names another one.

images, labels = data.held_out
try:
    logits = tvm_schedules.load(folder)(images)
except DeviceError as error:
    print(f"not run: {error}")
else:
    print(f"OpenCL: {np.mean(logits.argmax(1) == labels):.1%} of the held-out digits")
    library = Path(tempfile.mkdtemp()) / "host"
    tern_lightning.export(net, library, target="host", samples=data.calibration)
    difference = np.abs(tvm_schedules.load(library)(images) - logits).max()
    print(f"largest difference from the library for this CPU: {difference:.2g}")
    assert np.mean(logits.argmax(1) == labels) > 0.7

# %%
# The kernels of this network, one for every layer. What ``sparse`` kernels read are lists of offsets, in
# which zeros do not occur; ``conv_dot`` kernels multiply four bytes at a time, which is faster where few
# weights are zero.

source = (folder / "kernels.cl").read_text()
for name in re.findall(r"__kernel void (\w+)_kernel\([^{;]*\{", source):
    print(name)
