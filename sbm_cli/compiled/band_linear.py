"""The linear map over all bands, forward and backward.

Notable
- A frame goes through all steps while it lies in the nearest cache; backward walks the steps again from x.
- Squeezed values lie as [squeezed, band], so that each step has whole vectors: over channels, or over bands.
- Gradients of the weights are summed per UNIT of frames, then over units, whatever the number of threads.
"""

from __future__ import annotations

import math

from sbm_cli.compiled.jit import jit
from sbm_cli.compiled.vector import LANES, fill, lane_sums, load, load4, sigmoid, silu, splat, store, store4

ROWS = 4  # sums that are advanced together: independent chains hide the latency
UNIT = 48  # frames whose weights' gradients are summed together
EPS = 1e-5  # of the normalisation, as in nn.LayerNorm


@jit
def products(values, start, rows, length, weights, count, sums, out):
    """Write out [count, rows] = weights [count, length] times rows of values [rows, length]; sums: scratch."""
    for j in range(0, count, ROWS):
        for r in range(rows):
            v, w = start + r * length, j * length
            s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
            for i in range(0, length, LANES):
                value = load(values, v + i)
                s0 = s0 + value * load(weights, w + i)
                s1 = s1 + value * load(weights, w + length + i)
                s2 = s2 + value * load(weights, w + 2 * length + i)
                s3 = s3 + value * load(weights, w + 3 * length + i)
            store4(values, sums + r * LANES, rows * LANES, (s0, s1, s2, s3))
        for i in range(0, ROWS * rows, LANES):
            store(values, out + j * rows + i, lane_sums(values, sums + i * LANES))


@jit
def add_outer(values, left, count, rows, right, length, total, at):
    """Add left [count, rows] times right [rows, length], both in values, to total [count, length] at a place."""
    for j in range(0, count, ROWS):
        for i in range(0, length, LANES):
            t = at + j * length + i
            s0, s1, s2, s3 = load4(total, t, length)
            for r in range(rows):
                value, a = load(values, right + r * length + i), left + j * rows + r
                s0 = s0 + fill(values, a) * value
                s1 = s1 + fill(values, a + rows) * value
                s2 = s2 + fill(values, a + 2 * rows) * value
                s3 = s3 + fill(values, a + 3 * rows) * value
            store4(total, t, length, (s0, s1, s2, s3))


@jit
def row_sums(values, start, other, rows, length, sums, out):
    """Write the sums over each row of values times other, both [rows, length]."""
    for r in range(rows):
        total = splat(0.0)
        for i in range(0, length, LANES):
            total = total + load(values, start + r * length + i) * load(values, other + r * length + i)
        store(values, sums + r * LANES, total)
    for r in range(0, rows, LANES):
        store(values, out + r, lane_sums(values, sums + r * LANES))


@jit
def squeeze_frame(x, at, bands, channels, squeeze, squeeze_bias, weight, bias, s, places):
    """Write the normalised frame, its inverse deviations, the squeezed values before SiLU and after, and their map."""
    normed, deviation, before, after, mixed, sums = places
    size = squeeze_bias.size
    for r in range(bands):
        total = splat(0.0)
        for i in range(0, channels, LANES):
            total = total + load(x, at + r * channels + i)
        store(s, sums + r * LANES, total)
    for r in range(0, bands, LANES):
        store(s, deviation + r, lane_sums(s, sums + r * LANES) * (1.0 / channels))  # the means, for a moment
    for r in range(bands):
        mean = fill(s, deviation + r)
        for i in range(0, channels, LANES):
            store(s, normed + r * channels + i, load(x, at + r * channels + i) - mean)
    row_sums(s, normed, normed, bands, channels, sums, deviation)
    for r in range(bands):
        s[deviation + r] = 1.0 / math.sqrt(s[deviation + r] / channels + EPS)
        scale = fill(s, deviation + r)
        for i in range(0, channels, LANES):
            store(s, normed + r * channels + i, load(s, normed + r * channels + i) * scale)
    products(s, normed, bands, channels, squeeze, size, sums, before)
    for j in range(size):
        for r in range(0, bands, LANES):
            value = load(s, before + j * bands + r) + fill(squeeze_bias, j)
            store(s, before + j * bands + r, value)
            store(s, after + j * bands + r, value * sigmoid(value))
        for g in range(0, bands, LANES):
            total = load(bias, j * bands + g)
            for r in range(bands):
                total = total + fill(s, after + j * bands + r) * load(weight, (j * bands + r) * bands + g)
            store(s, mixed + j * bands + g, total)


@jit
def expand_frame(s, left, count, rows, weights, bias, length, out):
    """Write out [rows, length] = left [count, rows] turned times weights [count, length] + bias, if there is one."""
    for i in range(0, length, LANES):
        start = load(bias, i) if bias.size > 0 else splat(0.0)
        for r in range(0, rows, ROWS):
            s0, s1, s2, s3 = start, start, start, start
            for j in range(count):
                value, a = load(weights, j * length + i), left + j * rows + r
                s0 = s0 + fill(s, a) * value
                s1 = s1 + fill(s, a + 1) * value
                s2 = s2 + fill(s, a + 2) * value
                s3 = s3 + fill(s, a + 3) * value
            store4(s, out + r * length + i, length, (s0, s1, s2, s3))


@jit
def forward(first, last, frames, bands, x, squeeze, squeeze_bias, weight, bias, expand, expand_bias, y, s):
    channels, frame, narrow = expand_bias.size, bands * expand_bias.size, bands * squeeze_bias.size
    places = 0, frame, frame + bands, frame + bands + narrow, frame + bands + 2 * narrow, frame + bands + 3 * narrow
    for k in range(first * UNIT, min(last * UNIT, frames)):
        at = k * frame
        squeeze_frame(x, at, bands, channels, squeeze, squeeze_bias, weight, bias, s, places)
        expand_frame(s, places[4], squeeze_bias.size, bands, expand, expand_bias, channels, places[0])
        for i in range(0, frame, LANES):
            total = load(s, i)
            store(y, at + i, load(x, at + i) + silu(total))


@jit
def backward(
    first, last, frames, bands, x, squeeze, squeeze_bias, weight, bias, expand, expand_bias, gy,
    gx, gsqueeze, gsqueeze_bias, gweight, gbias, gexpand, gexpand_bias, s,
):  # fmt: skip
    channels, frame, narrow = expand_bias.size, bands * expand_bias.size, bands * squeeze_bias.size
    size = squeeze_bias.size
    normed, deviation, before = 0, frame, frame + bands
    after, mixed, sums = before + narrow, before + 2 * narrow, before + 3 * narrow
    # behind the sums: gradient of a frame [band, channel], of what is squeezed [squeezed, band], two sums of each band
    grad = sums + ROWS * max(channels, bands) * LANES
    slim = grad + frame
    mean, slope = slim + narrow, slim + narrow + bands
    places = normed, deviation, before, after, mixed, sums
    for k in range(first * UNIT, min(last * UNIT, frames)):
        at, unit = k * frame, k // UNIT
        squeeze_frame(x, at, bands, channels, squeeze, squeeze_bias, weight, bias, s, places)
        expand_frame(s, mixed, size, bands, expand, expand_bias, channels, grad)
        for i in range(0, channels, LANES):
            bias_sum = load(gexpand_bias, unit * channels + i)
            for r in range(bands):
                total = load(s, grad + r * channels + i)
                gate = sigmoid(total)
                value = load(gy, at + r * channels + i) * (gate * (1.0 + total * (1.0 - gate)))
                store(s, grad + r * channels + i, value)
                bias_sum = bias_sum + value
            store(gexpand_bias, unit * channels + i, bias_sum)
        add_outer(s, mixed, size, bands, grad, channels, gexpand, unit * size * channels)
        products(s, grad, bands, channels, expand, size, sums, slim)
        for j in range(size):
            for g in range(0, bands, LANES):
                b = unit * narrow + j * bands + g
                value = load(s, slim + j * bands + g)
                store(gbias, b, load(gbias, b) + value)
                for r in range(bands):
                    w = ((unit * size + j) * bands + r) * bands + g
                    store(gweight, w, load(gweight, w) + fill(s, after + j * bands + r) * value)
            for r in range(bands):
                total = splat(0.0)
                for g in range(0, bands, LANES):
                    total = total + load(s, slim + j * bands + g) * load(weight, (j * bands + r) * bands + g)
                store(s, sums + r * LANES, total)
            for r in range(0, bands, LANES):
                total = load(s, before + j * bands + r)
                gate = sigmoid(total)
                value = lane_sums(s, sums + r * LANES) * (gate * (1.0 + total * (1.0 - gate)))
                store(s, slim + j * bands + r, value)
                b = unit * narrow + j * bands + r
                store(gsqueeze_bias, b, load(gsqueeze_bias, b) + value)
        add_outer(s, slim, size, bands, normed, channels, gsqueeze, unit * size * channels)
        expand_frame(s, slim, size, bands, squeeze, expand_bias[:0], channels, grad)
        row_sums(s, grad, normed, bands, channels, sums, slope)
        for r in range(bands):
            total = splat(0.0)
            for i in range(0, channels, LANES):
                total = total + load(s, grad + r * channels + i)
            store(s, sums + r * LANES, total)
        for r in range(0, bands, LANES):
            store(s, mean + r, lane_sums(s, sums + r * LANES))
        for r in range(bands):
            scale = fill(s, deviation + r)
            m, t = fill(s, mean + r) * (1.0 / channels), fill(s, slope + r) * (1.0 / channels)
            for i in range(0, channels, LANES):
                o = r * channels + i
                value = load(s, grad + o) - m - load(s, normed + o) * t
                store(gx, at + o, load(gy, at + o) + value * scale)
