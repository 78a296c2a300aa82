"""A run goes on with the methods and the rounding that it was started with."""

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning import Rule, TernaryCallback
from tern_lightning.callbacks import (
    ActivationQuantization,
    MultiLevelActivation,
)
from tests.tern_lightning.training_nets import Save


def ternary(method="twn", **options):
    return TernaryCallback(method, **{"verbose": False, "bn_batches": 2, **options})


def test_a_run_does_not_go_on_with_another_method(fit, tmp_path):
    fit(ternary("ttq", start=1), Save(tmp_path))
    with pytest.raises(MisconfigurationException, match=r"hidden: ttq\(\) in the checkpoint, twn\(\) in this run"):
        fit(ternary("twn", start=1), ckpt_path=tmp_path / "epoch1.ckpt")
    with pytest.raises(MisconfigurationException, match="cannot go on with another ternary method: hidden"):
        fit(ternary("ttq", start=1, rules=[Rule("hidden", "twn")]), ckpt_path=tmp_path / "epoch1.ckpt")
    with pytest.warns(UserWarning, match=r"ttq\(\) in the checkpoint, ttq\(threshold=0.1\) in this run"):
        fit(ternary("ttq", start=1, options={"threshold": 0.1}), ckpt_path=tmp_path / "epoch1.ckpt")
    with pytest.warns(UserWarning, match="goes on with other methods"):
        fit(ternary("twn", start=1), ckpt_path=tmp_path / "epoch0.ckpt")


def test_a_run_does_not_go_on_with_another_rounding(fit, tmp_path):
    fit(ActivationQuantization(bits=6, observe_batches=2), MultiLevelActivation(terms=2), Save(tmp_path), max_epochs=1)
    path = tmp_path / "epoch0.ckpt"
    with pytest.warns(UserWarning, match=r"are rounded to 6 bits, and so they stay: bits=4"):
        fit(ActivationQuantization(bits=4), MultiLevelActivation(terms=2), ckpt_path=path)
    with pytest.raises(MisconfigurationException, match=r"trained as .*'terms': 2.* this run has .*'terms': 3"):
        fit(MultiLevelActivation(terms=3), ckpt_path=path)
