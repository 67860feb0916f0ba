"""A vector of LANES float32 channels in a register as a Numba type, so that nothing depends on the auto-vectoriser."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

from sbm_cli.compiled import llvm
from sbm_cli.compiled.jit import jit

LANES = 16 if llvm.has("avx512f") else 8
LINE = 64  # bytes of a cache line
LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453

FLOATS, INTS = llvm.floats(LANES), llvm.integers(LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)  # bfloat16, for Numba int16: the upper halves of floats
_constant, _integer = partial(llvm.constant, lanes=LANES), partial(llvm.integer, lanes=LANES)


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


VECTOR = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def _widen(context: Any, builder: Any, value: Any, kind: Any) -> Any:
    """Return the value as a vector: scalars fill all lanes."""
    if isinstance(kind, _VectorType):
        return value
    return llvm.splat(builder, context.cast(builder, value, kind, types.float32), LANES)


def _address(context: Any, builder: Any, signature: Any, args: Any, vector: Any = FLOATS) -> Any:
    return builder.bitcast(llvm.address(context, builder, signature, args, 0), vector.as_pointer())


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def apply(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            operands = [_widen(context, builder, *pair) for pair in zip(args, signature.args, strict=True)]
            return getattr(builder, instruction)(*operands, flags=llvm.FLAGS)

        return VECTOR(left, right), generate

    @overload(symbol)
    def implement(left, right):  # no annotations: Numba compares this signature with the lambda's
        if isinstance(left, _VectorType) or isinstance(right, _VectorType):
            return lambda left, right: apply(left, right)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_symbol, _instruction)


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _widen(context, builder, args[0], signature.args[0])

    return VECTOR(value), generate


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if signature.args[0].dtype == types.float32:
            return builder.load(_address(context, builder, signature, args), align=4)
        halves = builder.load(_address(context, builder, signature, args, HALVES), align=2)
        return builder.bitcast(builder.shl(builder.zext(halves, INTS), _integer(16)), FLOATS)

    return VECTOR(array, types.intp), generate


@intrinsic
def fill(typing_context: Any, array: Any, index: Any) -> Any:
    """Load one number into all lanes; array[index] would also test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.load(llvm.address(context, builder, signature, args, 0))
        return _widen(context, builder, number, types.float32)

    return VECTOR(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2]
        if signature.args[0].dtype == types.float32:
            builder.store(value, _address(context, builder, signature, args), align=4)
            return context.get_dummy_value()
        bits = builder.bitcast(value, INTS)  # rounded to nearest, ties to even; a NaN stays one
        odd = builder.and_(builder.lshr(bits, _integer(16)), _integer(1))
        rounded = builder.add(bits, builder.add(odd, _integer(0x7FFF)))
        quiet = builder.or_(bits, _integer(0x400000))
        bits = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        halves = builder.trunc(builder.lshr(bits, _integer(16)), HALVES)
        builder.store(halves, _address(context, builder, signature, args, HALVES), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@intrinsic
def move(typing_context: Any, target: Any, at: Any, source: Any, index: Any) -> Any:
    """Copy one number; an assignment would also test for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source = (llvm.address(context, builder, signature, args, i) for i in (0, 2))
        builder.store(builder.load(source), to)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), generate


@intrinsic
def prefetch(typing_context: Any, array: Any, at: Any, count: Any) -> Any:
    """Bring numbers into the cache; they may lie beyond the array's end."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, number, index = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [line, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [line], kind)
        start = llvm.address(context, builder, signature, args, 0)
        options = [ir.Constant(number, value) for value in (0, 3, 1)]  # to read, into the nearest cache, data
        step = ir.Constant(index, LINE // 4)
        with cgutils.for_range(builder, builder.sdiv(args[2], step)) as loop:
            place = builder.gep(start, [builder.mul(loop.index, step)])
            builder.call(hint, [builder.bitcast(place, line), *options])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


@intrinsic
def where_negative(typing_context: Any, value: Any, then: Any, other: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        negative = builder.fcmp_ordered("<", args[0], _constant(0.0))
        return builder.select(negative, args[1], args[2])

    return VECTOR(VECTOR, VECTOR, VECTOR), generate


@intrinsic
def lane_sums(typing_context: Any, array: Any, index: Any) -> Any:
    """Sum each of LANES consecutive vectors over its lanes; the sums are the lanes of the result."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = _address(context, builder, signature, args)
        rows = [builder.load(builder.gep(start, [ir.Constant(ir.IntType(64), i)]), align=4) for i in range(LANES)]
        even, odd = (ir.Constant(INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1))
        while len(rows) > 1:
            rows = [
                builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return VECTOR(array, types.intp), generate


@intrinsic
def pairs(typing_context: Any, low: Any, high: Any) -> Any:
    """Return two vectors as one whose lanes hold two bfloat16 each, in their order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return llvm.rounded_pairs(builder, *args)

    return VECTOR(VECTOR, VECTOR), generate


def _on_vector(instructions: Callable[..., Any]) -> Any:
    """Make a function of a builder and a vector, to a vector, one that kernels call."""

    @intrinsic
    def apply(typing_context: Any, vector: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return instructions(builder, *args)

        return VECTOR(vector), generate

    return apply


across, root, inverse_root = map(_on_vector, (llvm.across, llvm.root, llvm.inverse_root))
exp2_negative = _on_vector(llvm.exp2)  # below -125 no more than there


@_on_vector
def exp2_bounded(builder: Any, x: Any) -> Any:
    """2**x; above 125 as at 125."""
    high = _constant(125.0)
    return llvm.exp2(builder, builder.select(builder.fcmp_ordered(">", x, high), high, x))


@_on_vector
def negative_magnitude(builder: Any, x: Any) -> Any:
    return builder.bitcast(builder.or_(builder.bitcast(x, INTS), _integer(-(2**31))), FLOATS)


@_on_vector
def pair_sums(builder: Any, x: Any) -> Any:
    """Sum pairs of neighbouring lanes; the sums fill the first half of the result."""
    even, odd = (ir.Constant(INTS, [(first + 2 * lane) % LANES for lane in range(LANES)]) for first in (0, 1))
    undefined = ir.Constant(FLOATS, ir.Undefined)
    return builder.fadd(*(builder.shuffle_vector(x, undefined, lanes) for lanes in (even, odd)))


@jit
def sigmoid(x):
    return 1.0 / (1.0 + exp2_bounded(x * -LOG2E))


@jit
def silu(x):
    return x / (1.0 + exp2_bounded(x * -LOG2E))


@jit
def softplus(x):
    """Return softplus and its derivative, the sigmoid."""
    # max(x, 0) + log1p(e), e = exp(-|x|); log1p(e) = 2 artanh(s), s = e / (2 + e): relative precision for every x
    tail = exp2_negative(negative_magnitude(x) * LOG2E)
    s, upper = tail / (2.0 + tail), 1.0 / (1.0 + tail)
    q = s * s
    series = q * 0.28181658304931984 + 0.27959726279664016
    series = series * q + 0.40024992819909333
    series = series * q + 0.6666631183589535
    series = series * q + 2.000000008043254
    return where_negative(x, splat(0.0), x) + s * series, where_negative(x, tail * upper, upper)


@jit
def load4(array, at, apart):
    return load(array, at), load(array, at + apart), load(array, at + 2 * apart), load(array, at + 3 * apart)


@jit
def store4(array, at, apart, values):
    for i in range(4):
        store(array, at + i * apart, values[i])
