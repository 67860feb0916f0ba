"""A model as an ONNX graph that takes a hop of samples and returns one, for programs without PyTorch.

All that a stream does at the model's rate is inside. What it carries from hop to hop are inputs and outputs, zeros at
the beginning. docs/export.md describes the graph to those who run it.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli import __version__
from sbm_cli.atomic import write_atomically
from sbm_cli.audio.resample import StreamResampler
from sbm_cli.audio.samples import Samples
from sbm_cli.dsp.stft import Stft, window_tensors
from sbm_cli.errors import ModelError, needing
from sbm_cli.model import Model
from sbm_cli.options import Options
from sbm_cli.stream import Stream
from sbm_cli.stream.torch_chain import TorchChain
from sbm_cli.timing.clips import read_clip, speech_like

FORMAT = 1  # of inputs, outputs and metadata
OPSET = 18  # the oldest that PyTorch's exporter writes
LARGE = 1024  # numbers; smaller tensors stay in float32, and cost nothing
Dtype = Literal["float32", "float16", "int8"]
# Power of the difference in dB, below that of our own output: 20 dB and more above what bundled models reach with
# speech, and 6 dB with noise, of which they leave little.
TOLERANCES: dict[Dtype, float] = {"float32": -80, "float16": -50, "int8": -15}


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from a stream of the same model on the recording it was checked with.

    difference: the largest of a sample, full scale 1; difference_db: the power of all of it, below that of the output.
    delay: sample n of the output belongs to sample n - delay of the input.
    """

    path: str
    model: str
    dtype: Dtype
    bytes: int
    delay: int
    difference: float
    difference_db: float


def export(
    model: Model,
    path: Path,
    check: Path | None = None,
    *,
    dtype: Dtype = "float32",
    spectra: bool = False,
    dereverb: float = 1.0,
    license: str = "",
) -> Exported:
    """Write a model as an ONNX graph, once onnxruntime has enhanced a recording with it as a stream does.

    check: the recording; speech-like noise if None. dtype: of the weights, with int8 of the products too. spectra:
    take and return the spectra of frames, not samples. dereverb: as in `Options`.

    Raises ModelError if the model has no such form, or if the graph gives another result: nothing is written then.
    """
    with needing("export", "an export"):
        for package in ("onnx", "onnxruntime", "onnxscript"):
            import_module(package)
    options, config = Options(dereverb=dereverb), model.config
    stream = Stream(model, config.rate, 1, options, threads=1)  # refuses options that the model does not have
    recording = _recording(check, config.rate)
    hop = Hop(model, options, spectra)
    graph = _compact(_traced(hop), dtype)
    for key, value in _metadata(hop, dtype, license).items():
        graph.metadata_props.add(key=key, value=value)
    data = graph.SerializeToString()
    expected = np.concatenate([stream.feed(recording), stream.flush()])
    if not expected.any():
        raise ModelError(
            f"{config.name} was not exported: the recording to check it with comes out silent.",
            "Use a recording of speech as `check`.",
        )
    error = _enhanced(hop, data, recording) - expected
    smallest = np.finfo(np.float32).tiny
    decibels = float(10 * np.log10((np.square(error).sum() + smallest) / (np.square(expected).sum() + smallest)))
    if not decibels <= TOLERANCES[dtype]:  # NaN is not
        raise ModelError(
            f"{config.name} was not exported: onnxruntime's output differs from our own by {decibels:.0f} dB of its "
            f"power; {dtype} allows {TOLERANCES[dtype]:g} dB.",
            "Use a recording of speech as `check`, or pip install --upgrade "
            '"sbm-cli[export]"; if neither helps, please report it with `sbm doctor`.',
        )
    write_atomically(path, data)
    return Exported(str(path), config.name, dtype, len(data), hop.delay, float(np.abs(error).max()), decibels)


class Hop(nn.Module):
    """One hop of one channel, `(noisy, *carry) -> (clean, *carry)`: real tensors of fixed shapes.

    noisy, clean: samples [1, hop]; with `spectra` [1, bins, 2], the real and imaginary parts of the transform of one
    frame under the window, whose peak is 1. carry: that of the beginning is `start`.

    Raises ModelError for a model that has no such form.
    """

    analysis_window: Tensor
    synthesis_window: Tensor
    dft: Tensor  # [window, 2 bins]
    weights: Tensor  # [2 bins]

    def __init__(self, model: Model, options: Options, spectra: bool) -> None:
        super().__init__()
        if not model.config.network.causal:
            raise _unsuitable(model, "it sees whole windows of a recording, not one frame after the other")
        if model.config.schedule.end_std:
            raise _unsuitable(model, "it starts from noise that is drawn anew for every frame")
        self.model, self.options, self.spectra = model, options, spectra
        self.network = model.folded(1 - options.dereverb)  # a module's parameters are those of its modules
        stft = model.config.stft
        tensors = *window_tensors(stft, torch.device("cpu"))[:2], *_dft(stft)
        for name, tensor in zip(("analysis_window", "synthesis_window", "dft", "weights"), tensors, strict=True):
            self.register_buffer(name, tensor)
        self.scale = 1 / float(self.analysis_window.max())  # by which the windows were divided
        self.delay = stft.overlap + model.frames_late() * stft.hop  # samples
        # Tensors of their own: the exporter takes one that is given twice for one input.
        overlaps = {} if spectra else {name: torch.zeros(1, stft.overlap) for name in ("analysis", "synthesis")}
        self.start = overlaps | self._start()

    def forward(self, noisy: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        stft, old = self.model.config.stft, dict(zip(self.start, carried, strict=True))
        if self.spectra:
            pairs, new = self._enhance(noisy / self.scale, old)
            return pairs * self.scale, *(new[name] for name in self.start)
        frame = torch.cat([old.pop("analysis"), noisy], 1)
        before = F.pad(old.pop("synthesis"), (0, stft.hop))
        pairs, new = self._enhance((frame * self.analysis_window) @ self.dft, old)
        total = before + ((pairs.flatten(1) * self.weights) @ self.dft.T) * self.synthesis_window
        new |= {"analysis": frame[:, stft.hop :], "synthesis": total[:, stft.hop :]}
        return total[:, : stft.hop], *(new[name] for name in self.start)

    def _enhance(self, pairs: Tensor, old: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clean spectrum of a frame, as pairs of real numbers, and the carry."""
        chain = TorchChain(self.model, [1], self.options, high=False, threads=1)
        if old:
            chain.level, chain.late_level, chain.carries = old.pop("level"), old.pop("late_level", None), {0: old}
        spectrum = torch.view_as_complex(pairs.view(1, -1, 1, 2))
        clean = torch.view_as_real(chain.enhanced(spectrum))
        return clean[:, :, 0], {"level": chain.level, "late_level": chain.late_level} | chain.carries[0]

    @torch.no_grad()
    def _start(self) -> dict[str, Tensor]:
        _, first = self._enhance(torch.zeros_like(self.weights), {})
        start = {name: torch.zeros_like(x) for name, x in first.items() if x.numel()}
        _, second = self._enhance(torch.zeros_like(self.weights), dict(start))
        if any(first[name].shape != x.shape for name, x in second.items()):
            raise _unsuitable(self.model, "what it carries from frame to frame grows")
        return start


def _unsuitable(model: Model, reason: str) -> ModelError:
    return ModelError(f"{model.config.name} cannot be exported: {reason}.", "Export sbm-live, or a model like it.")


def _dft(stft: Stft) -> tuple[Tensor, Tensor]:
    """Return the transform of a real frame, [window, 2 bins], and the weights of bins in its inverse, [2 bins]."""
    turns = torch.outer(torch.arange(stft.window), torch.arange(stft.bins)) % stft.n_fft
    phase = turns.double() * (2 * math.pi / stft.n_fft)
    bins = torch.arange(stft.bins)
    negative = (bins > 0) & (2 * bins < stft.n_fft)  # frequencies that the bin stands for as well
    weights = (1.0 + negative) / stft.n_fft
    return torch.stack([phase.cos(), -phase.sin()], -1).flatten(1).float(), weights.repeat_interleave(2)


def _recording(path: Path | None, rate: int) -> Samples:
    """Return a recording [samples] at a rate, its channels mixed; or noise like speech that pauses and goes on low."""
    if path is None:
        pause = np.zeros(rate // 2, np.float32)
        return np.concatenate([speech_like(3, rate), pause, np.float32(0.01) * speech_like(2, rate, seed=1)])
    clip = read_clip(path)
    resampler, mono = StreamResampler(clip.rate, rate, 1), clip.samples.mean(0, keepdims=True)
    return np.hstack([*resampler.feed(mono), *resampler.flush()])


def _traced(hop: Hop) -> Any:
    """Return the graph of a hop, an onnx.ModelProto."""
    stft, names = hop.model.config.stft, [name.replace(".", "_") for name in hop.start]
    noisy = torch.zeros(1, stft.bins, 2) if hop.spectra else torch.zeros(1, stft.hop)
    with _quiet():
        try:
            program = torch.onnx.export(
                hop.eval(),
                (noisy, *hop.start.values()),
                input_names=["noisy", *names],
                output_names=["clean", *(f"{name}_out" for name in names)],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"{hop.model.config.name} cannot be exported: PyTorch's exporter does not take it.",
                "pip install --upgrade torch onnxscript; SBM_DEBUG=1 shows what the exporter says.",
            ) from error
    assert program is not None  # as it is with dynamo
    graph = program.model_proto
    for node in graph.graph.node:  # lines of our source, paths on this machine
        del node.metadata_props[:]
    return graph


def _compact(graph: Any, dtype: Dtype) -> Any:
    """Return the graph with its weights in a dtype: int8 where there are products, else float16."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if dtype == "int8":
        # Not the transforms: what is quiet beside what is loud would be lost.
        products = [node for node in graph.graph.node if node.op_type == "MatMul"]
        weights = {tensor.name for tensor in graph.graph.initializer} - {"dft"}
        kept = [node.name for node in products if node.input[1] not in weights]
        with tempfile.TemporaryDirectory() as folder, _quiet():
            path = Path(folder, "int8.onnx")
            quantize_dynamic(
                graph, path, ["MatMul"], per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept
            )
            graph = onnx.load(path)
    if dtype == "float32":
        return graph
    casts = []
    for tensor in graph.graph.initializer:
        numbers = onnx.numpy_helper.to_array(tensor)
        if numbers.dtype == np.float32 and numbers.size >= LARGE:
            half = f"{tensor.name}_half"
            casts.append(onnx.helper.make_node("Cast", [half], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers.astype(np.float16), half))
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def _metadata(hop: Hop, dtype: Dtype, license: str) -> dict[str, str]:
    config = hop.model.config
    values = {
        "format": FORMAT,
        "sbm_version": __version__,
        "model": config.name,
        "license": license,
        "dtype": dtype,
        "input": "spectra" if hop.spectra else "samples",
        "rate": config.rate,
        **asdict(config.stft),
        "lookahead": hop.model.frames_late(),
        "delay": hop.delay,
        "latency": hop.delay + config.stft.hop,
        "dereverb": hop.options.dereverb,
        **{f"level_{key}": value for key, value in asdict(config.level).items()},
        **{f"compression_{key}": value for key, value in asdict(config.compression).items()},
    }
    return {key: str(value) for key, value in values.items()}


def _enhanced(hop: Hop, data: bytes, recording: Samples) -> Samples:
    """Return a recording [samples] as onnxruntime enhances it with the graph."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
    names, carry = [node.name for node in session.get_inputs()], [x.numpy() for x in hop.start.values()]
    stft, count = hop.model.config.stft, len(recording)
    samples = torch.from_numpy(np.pad(recording, (0, hop.delay + -(count + hop.delay) % stft.hop)))
    frames = samples.view(-1, 1, stft.hop)
    if hop.spectra:
        spectrum, _ = stft.analyze(samples[None])
        frames = torch.view_as_real(spectrum * hop.scale).permute(2, 0, 1, 3)  # [frames, 1, bins, 2]
    outputs = []
    for frame in frames.numpy():
        clean, *carry = session.run(None, dict(zip(names, [frame, *carry], strict=True)))
        outputs.append(torch.from_numpy(clean))
    clean = torch.stack(outputs)
    if hop.spectra:
        spectrum = torch.view_as_complex(clean.permute(1, 2, 0, 3).contiguous()) / hop.scale
        clean, _ = stft.synthesize(spectrum)
    return clean.flatten()[hop.delay : hop.delay + count].numpy()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what the exporter says of its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
