"""The options of an export: one list, which calls, ``help`` and errors go by."""

import dataclasses
import inspect

import pytest

import tern_lightning
from tern_lightning.exporter import ExportOptions, OnnxOptions, to_onnx, write_onnx


@pytest.mark.parametrize(
    ("function", "options"), [(tern_lightning.export, ExportOptions), (write_onnx, OnnxOptions), (to_onnx, OnnxOptions)]
)
def test_signatures_name_every_option_with_its_default(function, options):
    parameters = list(inspect.signature(function).parameters.values())
    assert [one.default for one in parameters[:2]] == [inspect.Parameter.empty] * 2
    assert {one.name: one.default for one in parameters[2:]} == {f.name: f.default for f in dataclasses.fields(options)}
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in parameters[2:])


def test_wrong_calls_say_what_is_wrong(tmp_path):
    with pytest.raises(TypeError, match=r"export\(\): got an unexpected keyword argument 'targt'"):
        tern_lightning.export(None, tmp_path, targt="host")
    with pytest.raises(TypeError, match=r"export\(\): missing a required argument: 'output'"):
        tern_lightning.export(None)
    with pytest.raises(TypeError, match="too many positional arguments"):
        tern_lightning.export(None, tmp_path, "host")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": "int4"}, "activations must be 'uint8' or 'float32', got 'int4'"),
        ({"dense_weights": "int2"}, "dense_weights must be"),
        ({"percentile": 50.0}, r"percentile must be in \(50, 100\], got 50.0"),
        ({"batch_size": []}, r"batch_size must be one size or several, got \[\]"),
        ({"batch_size": (1, 8), "onnx_only": True}, r"batch_size must be one size, got \(1, 8\)"),
    ],
)
def test_values_are_checked_before_the_work(options, message):
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "int8"),
        ({"activations": "float32"}, "float32"),
        ({"dense_weights": "float32"}, "float32"),
        ({"activations": "float32", "dense_weights": "int8"}, "int8"),
    ],
)
def test_dense_weights_follow_the_activations(options, kind):
    assert ExportOptions(**options).dense_kind == kind
    assert ExportOptions(batch_size=4).batch_sizes == (4,)
    assert ExportOptions(batch_size=[1, 8]).batch_sizes == (1, 8)
