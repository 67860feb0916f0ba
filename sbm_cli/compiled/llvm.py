"""Operations on vectors of floats in LLVM instructions, with any number of lanes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features

FLAGS = ("contract", "arcp", "nsz")  # neither nnan nor ninf: a NaN must come out as one


def has(feature: str) -> bool:
    """Return whether Numba compiles for processors that have a feature: this one, or what its settings say."""
    named = numba.config.CPU_FEATURES
    return f"+{feature}" in (get_host_cpu_features() if named is None else named).split(",")


def floats(lanes: int) -> Any:
    return ir.VectorType(ir.FloatType(), lanes)


def integers(lanes: int) -> Any:
    return ir.VectorType(ir.IntType(32), lanes)


def constant(value: float, lanes: int) -> Any:
    return ir.Constant(floats(lanes), [ir.Constant(ir.FloatType(), float(np.float32(value)))] * lanes)


def integer(value: int, lanes: int) -> Any:
    return ir.Constant(integers(lanes), [value] * lanes)


def splat(builder: Any, number: Any, lanes: int) -> Any:
    """Return a vector with one number in all lanes."""
    undefined = ir.Constant(floats(lanes), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, integer(0, lanes))


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=FLAGS), c, flags=FLAGS)


def exp2(builder: Any, x: Any) -> Any:
    """Return 2**x for -125 <= x <= 125, with a relative error of 2e-7.

    A polynomial of the fraction, exact at 0, with the whole part added to its exponent.
    """
    lanes = x.type.count
    magic = constant(1.5 * 2**23, lanes)  # added to x it leaves the nearest whole number in the low bits
    shifted = builder.fadd(x, magic)  # no flags here and below: the compiler may not cancel the magic number
    whole = builder.fsub(shifted, magic)
    fraction = builder.fsub(x, whole)
    power = constant(0.0013264727630027005, lanes)
    for c in (0.009671512646240624, 0.055507337417524824, 0.2402224208525833, 0.6931469776002883, 1.0):
        power = multiply_add(builder, power, fraction, constant(c, lanes))
    if lanes == 16:  # AVX-512 has the last step in one instruction
        mask, mode = ir.IntType(16), ir.IntType(32)
        kind = ir.FunctionType(x.type, [x.type, x.type, x.type, mask, mode])
        scale = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512")
        return builder.call(scale, [power, whole, power, ir.Constant(mask, -1), ir.Constant(mode, 4)])
    exponent = builder.shl(builder.bitcast(shifted, integers(lanes)), integer(23, lanes))
    return builder.bitcast(builder.add(builder.bitcast(power, integers(lanes)), exponent), x.type)
