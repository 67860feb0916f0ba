"""Normalised convolution along the bands with SiLU, forward and backward.

Notable
- The innermost loops are written as LLVM instructions: a tile is some neighbouring bands times one vector of output
  channels and stays in registers over all inputs and taps. An input, once loaded, serves all taps; a tap all bands.
- Frames are normalised into a place between zero bands, so that nothing asks where a band lies; the last tile overlaps
  the one before.
- Tensors are larger than the caches: while a frame is computed, the next one is fetched. Worth a quarter of backward.
- Backward computes everything before SiLU again; the gradient of what was convolved is the same tile with the taps
  turned around, and the one of x follows while the frame lies in the nearest cache.
- Gradients of the taps are summed per UNIT of frames, then over units, whatever the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sbm_cli.compiled.jit import jit
from sbm_cli.compiled.llvm import FLAGS, across, address, constant, exp2, floats, has, inverse_root, multiply_add, splat
from sbm_cli.compiled.vector import LOG2E, prefetch

LANES = 8  # channels of a vector; also the smallest group that fills one
WIDE = has("avx512vl")  # 32 registers instead of 16
ROWS = (16, 4, 1) if WIDE else (8, 4, 1)  # bands of a tile, the most that fit: independent sums hide the latency
SUMS = 24 if WIDE else 10  # sums of tap gradients kept in registers
UNIT = 8  # frames whose tap gradients are summed together
EPS = 1e-5  # of the normalisation, as in nn.LayerNorm
FLOATS, INDEX = floats(LANES), ir.IntType(64)
_constant, _splat = functools.partial(constant, lanes=LANES), functools.partial(splat, lanes=LANES)

# --- vectors of LANES channels in LLVM instructions ------------------------------------------------------------------


def _index(value: int) -> Any:
    return ir.Constant(INDEX, value)


def _beyond(builder: Any, pointer: Any, count: Any) -> Any:
    return builder.gep(pointer, [count])


def _load(builder: Any, pointer: Any) -> Any:
    return builder.load(builder.bitcast(pointer, FLOATS.as_pointer()), align=4)


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, FLOATS.as_pointer()), align=4)


def _fill(builder: Any, pointer: Any) -> Any:
    """Load one number into all lanes."""
    return _splat(builder, builder.load(pointer))


def _sigmoid(builder: Any, x: Any) -> Any:
    high, one = _constant(125.0), _constant(1.0)
    z = builder.fmul(x, _constant(-LOG2E))  # 2**z = exp(-x)
    z = builder.select(builder.fcmp_ordered(">", z, high), high, z)
    return builder.fdiv(one, builder.fadd(one, exp2(builder, z)), flags=FLAGS)


def _add_silu(builder: Any, total: Any, other: Any) -> Any:
    return multiply_add(builder, total, _sigmoid(builder, total), _load(builder, other))


def _silu_gradient(builder: Any, total: Any, grad: Any) -> Any:
    gate, one = _sigmoid(builder, total), _constant(1.0)
    slope = multiply_add(builder, total, builder.fsub(one, gate), one)
    return builder.fmul(builder.fmul(gate, slope), _load(builder, grad))


def _running(builder: Any, starts: Sequence[Any]) -> list[Any]:
    """Return places for running sums; LLVM keeps them in registers."""
    places = [cgutils.alloca_once(builder, FLOATS) for _ in starts]
    for place, start in zip(places, starts, strict=True):
        builder.store(start, place)
    return places


def _tile(finish: Callable[[Any, Any, Any], Any]) -> Any:
    """Make an intrinsic that writes finish(bias + sum over inputs and taps, grad) for all bands and LANES outputs.

    x lies at the first band's first tap and first input channel; taps: [input, kernel, lane].
    """

    @intrinsic(prefer_literal=True)
    def tile(typing, x, x_at, taps, taps_at, bias, bias_at, grad, grad_at, out, out_at, bands, kernel, channels, size):
        width, step, inputs = (kind.literal_value for kind in (kernel, channels, size))

        def write(builder: Any, source: Any, taps: Any, bias: Any, grad: Any, out: Any, rows: int) -> None:
            sums = _running(builder, [_load(builder, bias)] * rows)
            with cgutils.for_range(builder, _index(inputs)) as loop:
                first = _beyond(builder, taps, builder.mul(loop.index, _index(width * LANES)))
                tap = [_load(builder, _beyond(builder, first, _index(k * LANES))) for k in range(width)]
                values = _beyond(builder, source, loop.index)
                for row in range(rows + width - 1):
                    value = _fill(builder, _beyond(builder, values, _index(row * step)))
                    for k in range(max(0, row - rows + 1), min(width, row + 1)):
                        place = sums[row - k]
                        builder.store(multiply_add(builder, tap[k], value, builder.load(place)), place)
            for row, place in enumerate(sums):
                at = _index(row * step)
                result = finish(builder, builder.load(place), _beyond(builder, grad, at))
                _store(builder, result, _beyond(builder, out, at))

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, taps, bias, grad, out = (address(context, builder, signature, args, i) for i in range(0, 10, 2))
            bands = args[10]
            for rows, larger in zip(ROWS, (None, *ROWS), strict=False):
                fits = builder.icmp_signed(">=", bands, _index(rows))
                if larger is not None:
                    fits = builder.and_(fits, builder.icmp_signed("<", bands, _index(larger)))
                with builder.if_then(fits):
                    tiles = builder.sdiv(builder.add(bands, _index(rows - 1)), _index(rows))
                    with cgutils.for_range(builder, tiles) as loop:
                        start, last = builder.mul(loop.index, _index(rows)), builder.sub(bands, _index(rows))
                        start = builder.select(builder.icmp_signed("<", start, last), start, last)
                        at = builder.mul(start, _index(step))
                        moved = [_beyond(builder, pointer, at) for pointer in (source, grad, out)]
                        write(builder, moved[0], taps, bias, moved[1], moved[2], rows)
            return context.get_dummy_value()

        at = types.intp
        return types.void(x, at, taps, at, bias, at, grad, at, out, at, at, kernel, channels, size), generate

    return tile


convolve = _tile(lambda builder, total, grad: total)
activate = _tile(_add_silu)
differentiate = _tile(_silu_gradient)


@intrinsic(prefer_literal=True)
def correlate(typing, x, x_at, grad, grad_at, total, total_at, bands, kernel, channels, inputs):
    """Add the sums over the bands of x * grad to total [input, kernel, lane], for some inputs and LANES outputs.

    grad lies at the row that the last tap takes to the first band.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, grad, total = (address(context, builder, signature, args, i) for i in (0, 2, 4))
        width, step, count = (kind.literal_value for kind in (kernel, channels, inputs))
        places = [_beyond(builder, total, _index(i * LANES)) for i in range(count * width)]
        sums = _running(builder, [_load(builder, place) for place in places])
        with cgutils.for_range(builder, args[6]) as loop:
            row = builder.mul(loop.index, _index(step))
            values, first = _beyond(builder, x, row), _beyond(builder, grad, row)
            grads = [_load(builder, _beyond(builder, first, _index((width - 1 - k) * step))) for k in range(width)]
            for i in range(count):
                value = _fill(builder, _beyond(builder, values, _index(i)))
                for k in range(width):
                    place = sums[i * width + k]
                    builder.store(multiply_add(builder, grads[k], value, builder.load(place)), place)
        for place, running in zip(places, sums, strict=True):
            _store(builder, builder.load(running), place)
        return context.get_dummy_value()

    at = types.intp
    return types.void(x, at, grad, at, total, at, at, kernel, channels, inputs), generate


@intrinsic(prefer_literal=True)
def accumulate(typing, x, x_at, total, total_at, bands, channels):
    """Add the sum over the bands of LANES channels to total."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, total = (address(context, builder, signature, args, i) for i in (0, 2))
        [place] = _running(builder, [_load(builder, total)])
        with cgutils.for_range(builder, args[4]) as loop:
            value = _load(builder, _beyond(builder, x, builder.mul(loop.index, _index(channels.literal_value))))
            builder.store(builder.fadd(builder.load(place), value), place)
        _store(builder, builder.load(place), total)
        return context.get_dummy_value()

    return types.void(x, types.intp, total, types.intp, types.intp, channels), generate


def _vectors(builder: Any, pointer: Any, channels: int) -> list[Any]:
    return [_load(builder, _beyond(builder, pointer, _index(i))) for i in range(0, channels, LANES)]


def _mean(builder: Any, vectors: Sequence[Any]) -> Any:
    total = functools.reduce(builder.fadd, vectors)
    return builder.fmul(across(builder, total), _constant(1.0 / (len(vectors) * LANES)))


def _normed(builder: Any, x: Any, channels: int) -> tuple[list[Any], Any]:
    """Return a band without its mean and with a variance of one, and its inverse deviation."""
    values = _vectors(builder, x, channels)
    mean = _mean(builder, values)
    values = [builder.fsub(value, mean) for value in values]
    variance = _mean(builder, [builder.fmul(value, value) for value in values])
    inverse = inverse_root(builder, builder.fadd(variance, _constant(EPS)))
    return [builder.fmul(value, inverse) for value in values], inverse


@intrinsic(prefer_literal=True)
def normalise(typing, x, x_at, gain, offset, out, out_at, bands, channels):
    """Write gain * norm(x) + offset for all bands of a frame."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        gain, offset = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (2, 3))
        x, out = (address(context, builder, signature, args, i) for i in (0, 4))
        step = channels.literal_value
        with cgutils.for_range(builder, args[6]) as loop:
            row = builder.mul(loop.index, _index(step))
            normed, _ = _normed(builder, _beyond(builder, x, row), step)
            weights = zip(_vectors(builder, gain, step), _vectors(builder, offset, step), strict=True)
            for i, (value, (weight, shift)) in enumerate(zip(normed, weights, strict=True)):
                place = _beyond(builder, out, builder.add(row, _index(i * LANES)))
                _store(builder, multiply_add(builder, value, weight, shift), place)
        return context.get_dummy_value()

    at = types.intp
    return types.void(x, at, gain, offset, out, at, at, channels), generate


@intrinsic(prefer_literal=True)
def differentiate_norm(typing, x, x_at, grad, grad_at, gain, gy, gy_at, gx, gx_at, ggain, goffset, at, bands, channels):
    """Write gx = gy + the gradient of x through `normalise`, all bands of a frame; add up those of gain and offset."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, grad, gy, gx = (address(context, builder, signature, args, i) for i in (0, 2, 5, 7))
        gain, *sums = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (4, 9, 10))
        ggain, goffset = (_beyond(builder, pointer, args[11]) for pointer in sums)
        step = channels.literal_value
        places = [_running(builder, _vectors(builder, pointer, step)) for pointer in (ggain, goffset)]
        with cgutils.for_range(builder, args[12]) as loop:
            row = builder.mul(loop.index, _index(step))
            normed, inverse = _normed(builder, _beyond(builder, x, row), step)
            grads = _vectors(builder, _beyond(builder, grad, row), step)
            for place, slope, value in zip(places[0], grads, normed, strict=True):
                builder.store(multiply_add(builder, slope, value, builder.load(place)), place)
            for place, slope in zip(places[1], grads, strict=True):
                builder.store(builder.fadd(slope, builder.load(place)), place)
            grads = [builder.fmul(*pair) for pair in zip(grads, _vectors(builder, gain, step), strict=True)]
            mean = _mean(builder, grads)
            slope = _mean(builder, [builder.fmul(*pair) for pair in zip(grads, normed, strict=True)])
            for i, (value, base) in enumerate(zip(grads, normed, strict=True)):
                at = builder.add(row, _index(i * LANES))
                value = builder.fsub(builder.fsub(value, mean), builder.fmul(base, slope))
                value = multiply_add(builder, value, inverse, _load(builder, _beyond(builder, gy, at)))
                _store(builder, value, _beyond(builder, gx, at))
        for pointer, running in zip((ggain, goffset), places, strict=True):
            for i, place in enumerate(running):
                _store(builder, builder.load(place), _beyond(builder, pointer, _index(i * LANES)))
        return context.get_dummy_value()

    n = types.intp
    return types.void(x, n, grad, n, gain, gy, n, gx, n, ggain, goffset, n, n, channels), generate


# --- kernels ---------------------------------------------------------------------------------------------------------


@functools.cache
def kernels(kernel: int, channels: int, size: int) -> tuple[Any, Any]:
    """Return forward and backward for groups of `size` channels; first and last count UNITs of frames."""
    before, after = (kernel - 1) // 2 * channels, kernel // 2 * channels  # as PyTorch pads "same"
    block = next(n for n in (8, 4, 2, 1) if n * kernel <= SUMS or n == 1)  # inputs summed at once
    taps_of = size * kernel * LANES  # of one vector of outputs

    @jit
    def forward(first, last, frames, bands, x, gain, offset, taps, bias, y, scratch):
        for i in range(scratch.size):
            scratch[i] = 0.0
        for frame in range(first * UNIT, min(last * UNIT, frames)):
            at = frame * bands * channels
            normalise(x, at, gain, offset, scratch, before, bands, channels)
            for i in range(0, channels, LANES):
                group, t = i // size * size, i // LANES * taps_of
                soon = at + (channels + i) * bands  # a share of the next frame
                prefetch(x, soon, bands * LANES)
                prefetch(y, soon, bands * LANES)
                activate(scratch, group, taps, t, bias, i, x, at + i, y, at + i, bands, kernel, channels, size)

    @jit
    def backward(
        first, last, frames, bands, x, gain, offset, taps, bias, gy, turned, zeros,
        gx, ggain, goffset, gtaps, gbias, scratch,
    ):  # fmt: skip
        grads = scratch.size // 2  # behind the frame its gradient, between zero bands as well
        for i in range(scratch.size):
            scratch[i] = 0.0
        for frame in range(first * UNIT, min(last * UNIT, frames)):
            at, unit = frame * bands * channels, frame // UNIT * channels
            normalise(x, at, gain, offset, scratch, before, bands, channels)
            for i in range(0, channels, LANES):
                group, t, g = i // size * size, i // LANES * taps_of, grads + after + i
                differentiate(scratch, group, taps, t, bias, i, gy, at + i, scratch, g, bands, kernel, channels, size)
                soon = at + (channels + i) * bands  # a share of the next frame
                prefetch(x, soon, bands * LANES)
                prefetch(gy, soon, bands * LANES)
                accumulate(scratch, g, gbias, unit + i, bands, channels)
                for n in range(0, size, block):
                    total = unit * size * kernel + t + n * kernel * LANES
                    correlate(
                        scratch, before + group + n, scratch, grads + i, gtaps, total, bands, kernel, channels, block
                    )
            for i in range(0, channels, LANES):
                group, t = grads + i // size * size, i // LANES * taps_of
                prefetch(gx, at + (channels + i) * bands, bands * LANES)
                out = before + i  # what was convolved is not needed any more
                convolve(scratch, group, turned, t, zeros, 0, zeros, 0, scratch, out, bands, kernel, channels, size)
            differentiate_norm(x, at, scratch, before, gain, gy, at, gx, at, ggain, goffset, unit, bands, channels)

    return forward, backward
