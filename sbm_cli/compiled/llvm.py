"""Operations on vectors of floats in LLVM instructions, with any number of lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features

FLAGS = ("contract", "arcp", "nsz")  # neither nnan nor ninf: a NaN must come out as one


def has(feature: str) -> bool:
    """Return whether Numba compiles for processors that have a feature: this one, or what its settings say."""
    named = numba.config.CPU_FEATURES
    return f"+{feature}" in (get_host_cpu_features() if named is None else named).split(",")


# Whether products can be of bfloat16; LLVM before 16 calls its type another name.
HALVES = has("avx512bf16") and has("avx512f") and binding.llvm_version_info >= (16,)


class _BFloat(ir.Type):
    """bfloat16, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def floats(lanes: int) -> Any:
    return ir.VectorType(ir.FloatType(), lanes)


def halves(lanes: int) -> Any:
    return ir.VectorType(_BFloat(), lanes)


def integers(lanes: int) -> Any:
    return ir.VectorType(ir.IntType(32), lanes)


def constants(values: Sequence[float]) -> Any:
    return ir.Constant(floats(len(values)), [ir.Constant(ir.FloatType(), float(np.float32(value))) for value in values])


def constant(value: float, lanes: int) -> Any:
    return constants([value] * lanes)


def integer(value: int, lanes: int) -> Any:
    return ir.Constant(integers(lanes), [value] * lanes)


def splat(builder: Any, number: Any, lanes: int) -> Any:
    """Return a vector with one number in all lanes."""
    undefined = ir.Constant(floats(lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, integer(0, lanes))


def address(context: Any, builder: Any, signature: Any, args: Sequence[Any], i: int) -> Any:
    """Return where argument i, an array, lies at the index that the argument behind it names."""
    return builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]])


def across(builder: Any, x: Any) -> Any:
    """Return the sum over the lanes, in every lane."""
    lanes = x.type.count
    distance = lanes // 2
    while distance:
        turned = ir.Constant(integers(lanes), [lane ^ distance for lane in range(lanes)])
        x = builder.fadd(x, builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), turned))
        distance //= 2
    return x


def inverse_root(builder: Any, x: Any) -> Any:
    """Return 1 / sqrt of the first lane, in every lane."""
    function = builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()])
    first = builder.extract_element(x, ir.Constant(ir.IntType(32), 0))
    inverse = builder.fdiv(ir.Constant(ir.FloatType(), 1.0), builder.call(function, [first]))
    return splat(builder, inverse, x.type.count)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=FLAGS), c, flags=FLAGS)


def multiply_add_pairs(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return c plus the products of the two bfloat16 in each lane of a and b; only where there are HALVES."""
    if not HALVES:
        return c
    pairs = [builder.bitcast(x, halves(2 * x.type.count)) for x in (a, b)]
    return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", c, *pairs)


def rounded_pairs(builder: Any, low: Any, high: Any) -> Any:
    """Return two vectors as one whose lanes hold two bfloat16 each; only where there are HALVES."""
    if not HALVES:
        return low
    function = ir.FunctionType(halves(2 * low.type.count), [high.type, low.type])
    name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
    both = builder.call(cgutils.get_or_insert_function(builder.module, function, name), [high, low])
    return builder.bitcast(both, low.type)


def root(builder: Any, x: Any) -> Any:
    return _call(builder, f"llvm.sqrt.v{x.type.count}f32", x)


def exp2(builder: Any, x: Any) -> Any:
    """Return 2**x for x <= 125, with a relative error below 4e-7; below -125 no more than 2**-125."""
    return (_exp2_by_table if x.type.count == 16 else _exp2_by_polynomial)(builder, x)


def _exp2_by_polynomial(builder: Any, x: Any) -> Any:
    """A polynomial of the fraction, exact at 0, with the whole part added to its exponent."""
    lanes = x.type.count
    low, magic = constant(-125.0, lanes), constant(1.5 * 2**23, lanes)
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    shifted = builder.fadd(x, magic)  # leaves the nearest whole number in the low bits
    fraction = builder.fsub(x, builder.fsub(shifted, magic))  # no flags: the compiler may not cancel the magic number
    power = constant(0.0013264727630027005, lanes)
    for c in (0.009671512646240624, 0.055507337417524824, 0.2402224208525833, 0.6931469776002883, 1.0):
        power = multiply_add(builder, power, fraction, constant(c, lanes))
    exponent = builder.shl(builder.bitcast(shifted, integers(lanes)), integer(23, lanes))
    return builder.bitcast(builder.add(builder.bitcast(power, integers(lanes)), exponent), x.type)


# For AVX-512, which picks from a table of 32 numbers and scales by a power of 2 in an instruction each: x is a multiple
# of 1 / 32 and a fraction f, and 2**f = SQUARE * ((f + ROOT)**2 + REST), the polynomial of degree 2 that is right at 0.
# Its slope spreads the error. ROOT comes in where the multiple is subtracted, and lowers that by 1 or 2.
ROOT = 46 / 32
SQUARE = (math.log(2) + 1.02e-5) / (2 * ROOT)
REST = 1 / SQUARE - ROOT**2
TABLE = [SQUARE * 2.0 ** (k / 32 + (1 if k / 32 >= ROOT - 1 else 2)) for k in range(32)]


def _exp2_by_table(builder: Any, x: Any) -> Any:
    """Seven instructions, where the polynomial takes ten."""
    lanes, magic = x.type.count, 1.5 * 2**18
    shifted = builder.fadd(x, constant(magic, lanes))  # leaves the nearest multiple of 1 / 32 in the low bits
    lower = builder.fsub(shifted, constant(magic + ROOT, lanes))
    root = builder.fsub(x, lower)
    pick, table = builder.bitcast(shifted, integers(lanes)), [constants(TABLE[:lanes]), constants(TABLE[lanes:])]
    factor = _call(builder, "llvm.x86.avx512.vpermi2var.ps.512", table[0], pick, table[1])
    power = builder.fmul(factor, multiply_add(builder, root, root, constant(REST, lanes)))
    mask, mode = ir.Constant(ir.IntType(16), -1), ir.Constant(ir.IntType(32), 4)
    return _call(builder, "llvm.x86.avx512.mask.scalef.ps.512", power, lower, power, mask, mode)


def _call(builder: Any, name: str, first: Any, *others: Any) -> Any:
    """Call an intrinsic that returns what its first argument is."""
    kind = ir.FunctionType(first.type, [first.type, *(other.type for other in others)])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [first, *others])
