"""A selection of ONNX' own tests of operators; ``python -m benchmarks.zoo.nodes`` judges all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")
pytest.importorskip("onnxruntime")

from tests.zoo.node_tests import cases, differs, in_memory, judge

MODULES = (
    "attention", "averagepool", "batch_normalization", "conv", "convtranspose", "cumsum", "depthtospace", "expand",
    "gather", "gelu", "gemm", "hardswish", "instance_normalization", "isinf", "layernormalization", "matmul", "maxpool",
    "mod", "reducemax", "reshape", "resize", "slice", "softmax", "transpose", "where",
)  # fmt: skip

PASSED = (
    "test_attention_4d_causal", "test_attention_causal_boolmask_nan_robustness", "test_averagepool_2d_ceil",
    "test_basic_conv_with_padding", "test_convtranspose_dilations", "test_depthtospace_crd_mode_example",
    "test_gather_negative_indices", "test_gelu_tanh_1", "test_gemm_default_vector_bias", "test_hardswish",
    "test_instancenorm_epsilon", "test_layer_normalization_2d_axis0", "test_isinf_negative", "test_matmul_4d",
    "test_maxpool_2d_dilations", "test_maxpool_2d_uint8", "test_softmax_large_number",
    "test_transpose_all_permutations_0",
    "test_where_example", "test_reshape_negative_dim",
)  # fmt: skip
CONSTANT = (
    "test_reduce_max_keepdims_random", "test_cumsum_1d", "test_resize_downsample_scales_cubic_antialias",
    "test_resize_downsample_scales_linear", "test_slice_neg_steps", "test_expand_dim_changed",
)  # fmt: skip
REFUSED = ("test_batchnorm_epsilon_training_mode", "test_mod_uint8")


@pytest.fixture(scope="module")
def every() -> dict[str, Any]:
    return cases(MODULES)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        *((name, "passed") for name in PASSED),
        *((name, "constant") for name in CONSTANT),
        *((name, "refused") for name in REFUSED),
    ],
)
def test_operator(name: str, verdict: str, every: dict[str, Any]) -> None:
    found, reason = judge(every[name], in_memory)
    assert found == verdict, reason


def test_wrong_results_crashes_and_unnamed_refusals_are_told_apart(every: dict[str, Any]) -> None:
    from tvm_schedules.errors import ModelError

    case = every["test_hardswish"]

    def raising(error: Exception) -> Any:
        def make(model: Any) -> Any:
            raise error

        return make

    assert judge(case, lambda model: lambda x: x)[0] == "wrong"
    assert judge(case, raising(KeyError("x")))[0] == "failed"
    assert judge(case, raising(ModelError("something is not supported")))[0] == "unnamed"
    assert judge(case, raising(ModelError("node 'a': operator HardSwish is not supported")))[0] == "refused"


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        (np.float32([1, np.nan]), np.float32([1, np.nan]), True),
        (np.float32([1, 2]), np.float32([1, 2.01]), False),
        (np.float32([1, 2]), np.float64([1, 2]), False),
        (np.float32([[1, 2]]), np.float32([1, 2]), False),
        (np.int64([1, 2]), np.int64([1, 3]), False),
        (np.float32([np.inf]), np.float32([np.inf]), True),
    ],
)
def test_differences(actual: np.ndarray, expected: np.ndarray, same: bool) -> None:
    assert (differs([actual], [expected]) is None) == same
