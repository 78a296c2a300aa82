"""A keyword network that listens frame by frame, from training to a microcontroller.

``python examples/c/keywords.py --output runs/keywords`` trains a GRU with ternary weights on made-up words (sweeps and
tones in noise), exports one step of it as C with its state as an input and an output, and runs clips through it: on
this machine, and on an emulated Cortex-M4 where ``arm-none-eabi-gcc`` and ``qemu-system-arm`` are there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import tern_lightning

HERE = Path(__file__).parent
BANDS, FRAMES, UNITS, WORDS = 16, 20, 32, 4
CLIPS = 8


def clips(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clips ``[count, FRAMES, BANDS]`` and their words: a sweep up, a sweep down, two tones, or nothing but noise."""
    random = np.random.default_rng(seed)
    words = random.integers(0, WORDS, count)
    frames = 0.25 * np.abs(random.normal(size=(count, FRAMES, BANDS)))
    for clip, word in enumerate(words):
        first, length = random.integers(0, 4), random.integers(10, 16)
        for step in range(length if word < WORDS - 1 else 0):
            share = step / length
            place = (share, 1 - share, 0.25 if share < 0.5 else 0.75)[word] * (BANDS - 1)
            frames[clip, first + step] += np.exp(-0.5 * (np.arange(BANDS) - place) ** 2)
    return torch.from_numpy(frames.astype(np.float32)), torch.from_numpy(words)


class Step(nn.Module):
    """Frames ``[B, T, BANDS]`` and a state ``[B, UNITS]`` in; scores ``[B, WORDS]`` and the next state out."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(BANDS, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, WORDS)

    def forward(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One frame or many."""
        _, last = self.rnn(frames, state.unsqueeze(0))
        return self.head(last.squeeze(0)), last.squeeze(0)


def train(steps: int) -> Step:
    """Ternary from the start; the codes are frozen two thirds of the way."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # products this small gain nothing by more
    net = Step()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    tern_lightning.ternarize(net, rules=[tern_lightning.Rule("rnn", "twn")], optimizer=optimizer)
    frames, words = clips(1024, seed=1)
    for step in range(steps):
        if step == steps * 2 // 3:
            tern_lightning.freeze(net)
        batch = torch.randint(0, len(frames), (64,))
        scores, _ = net(frames[batch], torch.zeros(64, UNITS))
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, words[batch]).backward()
        optimizer.step()
    return net.eval()


def export(net: Step, output: Path) -> None:
    """One step as C, and clips with what the network says about them as a header."""
    heard, _ = clips(64, seed=2)
    with torch.no_grad():
        _, states = net(heard[:, :12], torch.zeros(64, UNITS))
    samples = (heard[:, 12:13].numpy(), states.numpy())
    tern_lightning.export(net, output / "c", target="c", c_prefix="keywords", samples=samples)
    held_out, _ = clips(CLIPS, seed=3)
    with torch.no_grad():
        expected = net(held_out, torch.zeros(CLIPS, UNITS))[0].argmax(1)
    frames = [[",".join(f"{value:.6f}f" for value in frame) for frame in clip] for clip in held_out]
    numbers = ",\n".join("{" + ",\n".join(f"{{{frame}}}" for frame in clip) + "}" for clip in frames)
    (output / "c" / "clips.h").write_text(
        f"enum {{ CLIPS = {CLIPS}, FRAMES = {FRAMES} }};\n"
        f"static const float clips[CLIPS][FRAMES][{BANDS}] = {{\n{numbers}\n}};\n"
        f"static const int expected[CLIPS] = {{ {', '.join(map(str, expected.tolist()))} }};\n"
    )


def programs(output: Path, name: str) -> dict[str, str]:
    """Builds ``<name>.c`` with a network by CMake and runs it; returns what it said, by where it ran.

    Args:
        output: Its folder ``c`` has the network, exported with the prefix ``name``.
        name: Of the program and the network.
    """
    said: dict[str, str] = {}
    if not shutil.which("cmake"):
        return said
    said["host"] = subprocess.run(
        [_build(output, name, "host") / "demo"], check=True, capture_output=True, text=True
    ).stdout
    print(f"here:\n{said['host']}")
    if shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm"):
        toolchain = f"-DCMAKE_TOOLCHAIN_FILE={HERE.resolve() / 'cortex-m' / 'gcc.cmake'}"
        image = _build(output, name, "cortex-m4", toolchain, "-DCORE=cortex-m4") / "demo.elf"
        board = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting", "-kernel", str(image)]
        done = subprocess.run(board, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        said["cortex-m4"] = done.stderr  # semihosting writes there
        print(f"on an emulated Cortex-M4:\n{said['cortex-m4']}")
    return said


def _build(output: Path, name: str, where: str, *options: str) -> Path:
    folder = output / where
    given = [f"-DMODEL_DIR={(output / 'c').resolve()}", f"-DMODEL={name}", f"-DPROGRAM={name}.c", *options]
    for command in (["cmake", "-S", str(HERE), "-B", str(folder), *given], ["cmake", "--build", str(folder)]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def main(arguments: list[str] | None = None) -> dict[str, float | str]:
    """Trains, exports, runs; returns the accuracy and what the programs said."""
    parser = argparse.ArgumentParser(description="A streaming keyword network on a microcontroller.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=400, help="of training (default: %(default)s)")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    net = train(given.steps)
    frames, words = clips(512, seed=4)
    with torch.no_grad():
        right = (net(frames, torch.zeros(len(frames), UNITS))[0].argmax(1) == words).float().mean().item()
    print(f"{right:.1%} of 512 held-out clips")
    export(net, given.output)
    return {"accuracy": right, **programs(given.output, "keywords")}


if __name__ == "__main__":
    main()
