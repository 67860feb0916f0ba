"""The integrated loudness of a waveform (EBU R 128)."""

from __future__ import annotations

import numpy as np

from sbm_cli.audio import ffmpeg
from sbm_cli.audio.ffmpeg import av
from sbm_cli.audio.samples import Samples
from sbm_cli.errors import DependencyError

_SILENT = -70.0  # LUFS, of what is too soft to count


class LoudnessMeter:
    """Measure the integrated loudness of a waveform, in blocks, by FFmpeg's ebur128.

    Raises DependencyError if PyAV is too old to tell what it found.
    """

    def __init__(self, rate: int, channels: int) -> None:
        if not hasattr(av.AudioFrame, "metadata"):
            raise DependencyError(
                "loudness is measured by PyAV from version 18 on.", "pip install 'av>=18', which needs Python 3.11."
            )
        self._rate, self._layout = rate, ffmpeg.layout_of(channels)
        self._graph = av.filter.Graph()
        form = f"sample_rate={rate}:sample_fmt=flt:channel_layout={self._layout}:time_base=1/{rate}"
        chain = [
            self._graph.add("abuffer", form),
            self._graph.add("ebur128", "metadata=1:framelog=quiet"),
            self._graph.add("abuffersink"),
        ]
        self._graph.link_nodes(*chain).configure()
        self._fed = 0
        self._found: float | None = None

    def feed(self, block: Samples) -> None:
        """Take the next samples [channels, n]."""
        if not block.shape[1]:
            return
        frame = ffmpeg.frame_of(np.ascontiguousarray(block.T), "flt", self._layout, self._rate)
        frame.pts, self._fed = self._fed, self._fed + block.shape[1]
        self._graph.push(frame)
        while True:
            try:
                loudness = self._graph.pull().metadata["lavfi.r128.I"]
            except (av.BlockingIOError, av.EOFError):
                return
            self._found = float(loudness)

    @property
    def loudness(self) -> float | None:
        """Loudness of what came so far in LUFS, None if it is too short or too soft to have one."""
        return None if self._found is None or self._found <= _SILENT else self._found
