"""How the kernels see an array [batch, time, band, channel]."""

from __future__ import annotations

from typing import Any, NamedTuple

from sbm_cli.compiled.jit import jit

CHUNK = 4  # sequences that a thread takes together; their parameter gradients are summed first


class Rows(NamedTuple):
    """A tensor [batch, time, band, channel] for the kernels: its memory as a flat array, all strides but the last."""

    data: Any
    strides: tuple[int, int, int]


@jit
def origin(rows, bands, sequence, frame):
    """Return where a row of a sequence = batch * bands + band begins."""
    return sequence // bands * rows.strides[0] + frame * rows.strides[1] + sequence % bands * rows.strides[2]
