"""Level and compression of spectra around the network, as `sbm_cli.dsp` specifies them.

A spectrum is given by its real and its imaginary parts [frame, bin]; to the network a frame is two rows of some width.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from sbm_cli.compiled.jit import jit

ONE, TINY = np.float32(1), np.float32(1e-24)  # in double precision everything would take longer


@jit
def follow(power, floor, rise, fall, last, levels):
    """Write the level of every frame, as `Level.track` does; power: [group, frame], last: the levels before, or 0."""
    for group in range(power.shape[0]):
        level = last[group]
        for k in range(power.shape[1]):
            now = floor if power[group, k] < floor else power[group, k]
            level = level if level > 0 else now
            step = now - level
            level += max(rise * step, fall * step)
            levels[group, k] = level
        last[group] = level


@jit
def limit_offset(real, imaginary, constant_real, constant_imaginary, low, most):
    """Limit the offset of a spectrum in place as `dsp.offset.limit_offset` does; low: the first bin that counts."""
    frames, bins = real.shape
    for k in range(frames):
        power = np.float32(0)
        for i in range(low, bins):
            power += real[k, i] * real[k, i] + imaginary[k, i] * imaginary[k, i]
        limit = sqrt(most * power / np.float32(bins - low))
        excess = real[k, 0] - min(max(real[k, 0], -limit), limit)
        if excess != 0:
            scale = excess / constant_real[0]
            for i in range(bins):
                real[k, i] -= scale * constant_real[i]
                imaginary[k, i] -= scale * constant_imaginary[i]


@jit
def compress(real, imaginary, levels, exponent, factor, out, width):
    """Write a spectrum as the network sees it: divided by its level, compressed."""
    frames, bins = real.shape
    power = np.float32((exponent - 1) / 2)
    for k in range(frames):
        scale, begin = ONE / sqrt(levels[k]), 2 * k * width
        re_out, im_out = out[begin : begin + bins], out[begin + width : begin + width + bins]
        for i in range(bins):
            re, im = real[k, i] * scale, imaginary[k, i] * scale
            total = max(re * re + im * im, TINY)
            gain = factor * (ONE / sqrt(sqrt(total)) if exponent == 0.5 else total**power)
            re_out[i], im_out[i] = re * gain, im * gain


@jit
def expand(estimates, width, levels, exponent, factor, real, imaginary):
    """Write the spectrum of an estimate, the inverse of `compress`."""
    frames, bins = real.shape
    power, scale = np.float32((1 / exponent - 1) / 2), np.float32(factor ** (-1 / exponent))
    for k in range(frames):
        level, begin = scale * sqrt(levels[k]), 2 * k * width
        re, im = estimates[begin : begin + bins], estimates[begin + width : begin + width + bins]
        for i in range(bins):
            total = re[i] * re[i] + im[i] * im[i]
            gain = level * (sqrt(total) if exponent == 0.5 else total**power)
            real[k, i], imaginary[k, i] = re[i] * gain, im[i] * gain
