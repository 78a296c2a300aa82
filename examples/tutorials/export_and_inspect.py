"""
Export and inspect
==================

From a trained module to a library: what is written, how it is verified, what runs it, and where to see what
every layer became.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import numpy as np

import tern_lightning
import tvm_schedules
from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, PruningSchedule, TernaryCallback

# %%
# A short training, with 80 % zeros and 8-bit activations.

L.seed_everything(0)
net, data = DigitsNet(width=16), Digits(batch_size=32)
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
# ``export`` traces the module, writes ``model.onnx`` with two bits a weight, compiles it and compares the
# library with onnxruntime on the samples. It raises an error where they differ by more than rounding.

folder = Path(tempfile.mkdtemp()) / "digits"
result = tern_lightning.export(net.eval(), folder, target="host", samples=data.calibration)
print(result.artifact.report.text())
for path in sorted(folder.rglob("*")):
    if path.is_file():
        print(f"{path.stat().st_size:9,} bytes  {path.relative_to(folder)}")

# %%
# ``load`` needs numpy and TVM's runtime and neither torch nor onnx. A model takes and gives numpy arrays.

model = tvm_schedules.load(folder)
images, labels = data.held_out
logits = model(images)
print(f"library: {np.mean(logits.argmax(1) == labels):.1%} of the held-out digits")

# %%
# ``tern-inspect`` shows every weight of an artifact, of an ONNX file or of a checkpoint; ``--json`` prints
# the same for programs.

inspect = [sys.executable, "-m", "tvm_schedules.cli.inspect"]
print(subprocess.run([*inspect, folder], capture_output=True, text=True, check=True).stdout)

# %%
# Where the zeros are, and how many bits a weight takes in the file:

layers = json.loads(
    subprocess.run([*inspect, "--json", folder], capture_output=True, check=True).stdout
)["layers"]
names = [layer["name"] for layer in layers]
assert sum(layer["terms"] > 0 for layer in layers) == 9

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
left.barh(names, [layer["sparsity"] for layer in layers])
left.set(xlabel="share of zeros", xlim=(0, 1))
left.invert_yaxis()
right.barh(names, [layer["bits"] for layer in layers], color="tab:orange")
right.set(xlabel="stored bits of a weight")
figure.tight_layout()
plt.show()
