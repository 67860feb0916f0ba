"""Clean a recording with an exported model, hop by hop: python examples/onnx_stream.py MODEL.onnx NOISY.wav CLEAN.wav

    sbm export sbm-live -o sbm-live.onnx
    python examples/onnx_stream.py sbm-live.onnx examples/noisy.wav clean.wav

It needs NumPy, onnxruntime and soundfile. docs/export.md describes the graph.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
import soundfile
from numpy.typing import NDArray


class OnnxStream:
    """One channel: `feed` takes a hop of samples and returns one, `delay` samples late."""

    def __init__(self, path: str) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1  # a hop is too little work to share
        try:
            self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's have no class in common
            raise SystemExit(str(error)) from error
        known = self.session.get_modelmeta().custom_metadata_map
        if (known["format"], known["input"]) != ("1", "samples"):
            raise SystemExit(f"{path}: expected format 1 and samples, got {known['format']} and {known['input']}")
        self.rate, self.hop, self.delay = (int(known[key]) for key in ("rate", "hop", "delay"))
        noisy, *carry = self.session.get_inputs()
        self.names = [noisy.name, *(part.name for part in carry)]
        self.carry = [np.zeros(part.shape, np.float32) for part in carry]

    def feed(self, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        inputs = dict(zip(self.names, [noisy[None], *self.carry], strict=True))
        clean, *self.carry = self.session.run(None, inputs)  # outputs come in the order of the inputs
        return clean[0]


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    model, source, target = sys.argv[1:]
    noisy, rate = soundfile.read(source, dtype="float32", always_2d=True)
    stream = OnnxStream(model)
    if rate != stream.rate:
        raise SystemExit(f"{source}: the model wants {stream.rate} Hz, this is {rate} Hz")
    samples = noisy.mean(axis=1)
    zeros = stream.delay + -(len(samples) + stream.delay) % stream.hop  # for what comes late, and for a whole last hop
    hops = np.append(samples, np.zeros(zeros, np.float32)).reshape(-1, stream.hop)
    clean = np.concatenate([stream.feed(hop) for hop in hops])
    soundfile.write(target, clean[stream.delay : stream.delay + len(samples)], rate)


if __name__ == "__main__":
    main()
