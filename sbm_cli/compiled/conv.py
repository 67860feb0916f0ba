"""Causal convolution along time with SiLU, forward and backward, for a kernel of TAPS frames."""

from __future__ import annotations

from sbm_cli.compiled.jit import jit
from sbm_cli.compiled.rows import CHUNK, origin
from sbm_cli.compiled.vector import LANES, load, sigmoid, silu, splat, store

TAPS = 4


@jit
def conv_sum(x, at, step, taps, bias, i, channels):
    """Return the sum over the taps; at: where the newest input lies, step: how far before it the previous one."""
    total = load(bias, i)
    for j in range(TAPS):
        total = total + load(taps, j * channels + i) * load(x, at - (TAPS - 1 - j) * step)
    return total


@jit
def conv_row(x, at, step, taps, bias, y, out):
    for i in range(0, bias.size, LANES):
        total = conv_sum(x, at + i, step, taps, bias, i, bias.size)
        store(y, out + i, silu(total))


@jit
def conv_row_backward(x, at, step, taps, bias, gy, gout, scratch, ring, gtaps, grad_taps, gbias, grad_bias):
    """Write the gradient of the sums of a row to the ring; add up those of taps and bias."""
    channels = bias.size
    for i in range(0, channels, LANES):
        total = conv_sum(x, at + i, step, taps, bias, i, channels)
        gate = sigmoid(total)
        grad = load(gy, gout + i) * (gate * (1.0 + total * (1.0 - gate)))
        store(scratch, ring + i, grad)
        store(gbias, grad_bias + i, load(gbias, grad_bias + i) + grad)
        for j in range(TAPS):
            t = grad_taps + j * channels + i
            store(gtaps, t, load(gtaps, t) + grad * load(x, at + i - (TAPS - 1 - j) * step))


@jit
def conv_turned(scratch, ring, k, taps, channels, gx, out):
    for i in range(0, channels, LANES):
        result = splat(0.0)
        for j in range(TAPS):
            grad = load(scratch, ring + (k - j) % TAPS * channels + i)
            result = result + grad * load(taps, j * channels + i)
        store(gx, out + i, result)


@jit
def conv_head(group, end, bands, frames, channels, x, before, head):
    """Copy the inputs before the first frame, then the first ones: [sequence, 2 (TAPS - 1), channel]."""
    for sequence in range(group, end):
        for k in range(2 * TAPS - 2):
            for i in range(0, channels, LANES):
                target = ((sequence - group) * (2 * TAPS - 2) + k) * channels + i
                if k < TAPS - 1:
                    store(head, target, load(before, (sequence * (TAPS - 1) + k) * channels + i))
                elif k - TAPS + 1 < frames:
                    store(head, target, load(x.data, origin(x, bands, sequence, k - TAPS + 1) + i))


@jit
def conv_forward(first, last, bands, frames, x, taps, bias, before, y, scratch):
    channels = bias.size
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, before, scratch)
        for k in range(frames):
            for sequence in range(group, end):
                out = origin(y, bands, sequence, k)
                if k < TAPS - 1:
                    at = ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels
                    conv_row(scratch, at, channels, taps, bias, y.data, out)
                else:
                    conv_row(x.data, origin(x, bands, sequence, k), x.strides[1], taps, bias, y.data, out)


@jit
def conv_backward(first, last, bands, frames, x, taps, bias, before, gy, gx, gbefore, gtaps, gbias, scratch):
    channels = bias.size
    # The scratch goes on with the gradients of the last sums [sequence, TAPS, channel].
    rings = CHUNK * (2 * TAPS - 2) * channels
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, before, scratch)
        for i in range(0, CHUNK * TAPS * channels, LANES):
            store(scratch, rings + i, splat(0.0))
        grad_taps, grad_bias = group // CHUNK * TAPS * channels, group // CHUNK * channels
        for k in range(frames + TAPS - 1):
            for sequence in range(group, end):
                ring = rings + (sequence - group) * TAPS * channels
                newest = ring + k % TAPS * channels
                if k < min(TAPS - 1, frames):
                    at, step = ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels, channels
                    conv_row_backward(
                        scratch, at, step, taps, bias, gy.data, origin(gy, bands, sequence, k),
                        scratch, newest, gtaps, grad_taps, gbias, grad_bias,
                    )  # fmt: skip
                elif k < frames:
                    at, step = origin(x, bands, sequence, k), x.strides[1]
                    conv_row_backward(
                        x.data, at, step, taps, bias, gy.data, origin(gy, bands, sequence, k),
                        scratch, newest, gtaps, grad_taps, gbias, grad_bias,
                    )  # fmt: skip
                else:
                    for i in range(0, channels, LANES):
                        store(scratch, newest + i, splat(0.0))
                # the input three frames ago is complete: it went into the sums from there to here
                if k < TAPS - 1:
                    conv_turned(scratch, ring, k, taps, channels, gbefore, (sequence * (TAPS - 1) + k) * channels)
                else:
                    out = origin(gx, bands, sequence, k - TAPS + 1)
                    conv_turned(scratch, ring, k, taps, channels, gx.data, out)
