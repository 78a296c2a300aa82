"""What stands before the generated kernels: types, and the few functions that languages name differently.

``tern_dot(a, b, c)`` adds the products of four pairs of unsigned bytes to ``c``; ``tern_down(v, n, w)`` gives the value
of the thread ``n`` further on in groups of ``w`` threads.
"""

from __future__ import annotations

import re

__all__ = ["complete"]

_BYTES = "(a & 255u) * (b & 255u) + (a >> 8 & 255u) * (b >> 8 & 255u)"
_BYTES += " + (a >> 16 & 255u) * (b >> 16 & 255u) + (a >> 24) * (b >> 24)"

_OPENCL = f"""
#if defined(cl_khr_integer_dot_product) && defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
#pragma OPENCL EXTENSION cl_khr_integer_dot_product : enable
#define tern_dot(a, b, c) ((c) + dot_4x8packed_uu_uint((a), (b)))
#elif defined(cl_arm_integer_dot_product_accumulate_int8)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#define tern_dot(a, b, c) arm_dot_acc(as_uchar4(a), as_uchar4(b), (c))
#else
inline uint tern_dot(uint a, uint b, uint c) {{
  return c + {_BYTES};
}}
#endif
"""

_CUDA = """
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short
#define int64_t long long
#define uint64_t unsigned long long
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define tern_dot(a, b, c) __dp4a((uint)(a), (uint)(b), (uint)(c))
#define tern_down(v, n, w) __shfl_down_sync(0xffffffffu, (v), (n), (w))
"""

_METAL = f"""#include <metal_stdlib>
using namespace metal;
inline uint tern_dot(uint a, uint b, uint c) {{
  return c + {_BYTES};
}}
"""


def _constant(signature: re.Match[str]) -> str:
    """The signature of a kernel of this package, which writes nothing but ``out``."""
    return re.sub(r"(?<=[(,])\s*(\w+\* __restrict__ (?!out_ptr\b))", r" const \1", signature[0])


def complete(source: str, kind: str) -> str:
    """Generated source -> a file that compiles by itself.

    CUDA: TVM's headers, which need the toolkit's, make room for a few definitions (nvrtc needs no header then), and
    what a kernel only reads is said to be constant, so that it goes through the read-only cache.
    """
    if kind == "webgpu":
        return source  # one module a kernel, under a line with its name: their bindings have the same numbers
    source = re.sub(r"^// Function: .*\n", "", source, flags=re.MULTILINE)
    if kind == "cuda":
        body = source[source.index('extern "C"') :]
        body = re.sub(r"(?<=\) )(?!fallback)\w+_kernel\([^)]*\)", _constant, body)
        return f"{_CUDA.lstrip()}\n{body.strip()}\n"
    if kind == "metal":
        union = re.compile(r"#include <metal_stdlib>\nusing namespace metal;\n+union __TVMArgUnion \{[^}]*\};\n")
        return f"{_METAL}\n{union.sub('', source).strip()}\n"
    return f"{_OPENCL.lstrip() if kind == 'opencl' else ''}\n{source.strip()}\n"
