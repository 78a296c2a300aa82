"""Compare the state of two runs."""

import torch

from tern_lightning.nn.ternary_layers import swapped_layers


def everything(trainer, net, path):
    """All state at a run's end: the checkpoint without bookkeeping of the loops, latent weights, buffers, methods."""
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    kept = {key: value for key, value in saved.items() if key != "loops"}
    kept["parameters"] = {name: p.detach().clone() for name, p in net.named_parameters()}
    kept["buffers"] = {name: b.clone() for name, b in net.named_buffers()}
    kept["methods"] = {name: layer._ternary_state.quantizer.state() for name, layer in swapped_layers(net)}
    return kept


def assert_same(a, b, where=""):
    """Equal in structure, type and every bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where
