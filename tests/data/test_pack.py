"""Packs: what comes back from them, in what order it went in, and what a training from one needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sbm_cli.config import dump
from sbm_cli.data import pack
from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.mixing import MixConfig
from sbm_cli.data.pack import DECODED, Pack, encode, interleaved, open_pack, write_pack
from sbm_cli.data.room_responses import ResponseBank, RoomResponse, align, simulate_room
from sbm_cli.data.sources import DataConfig, open_sources
from sbm_cli.errors import ConfigError
from sbm_cli.training.config import TrainConfig
from tests.conftest import PATIENCE


def corpus_of(*rows: tuple[str, str, str, str, float]) -> Corpus:
    """Make a corpus of (kind, split, source, speaker, seconds): noise of many levels with its peak at full scale."""
    rng = np.random.default_rng(0)
    clips, parts, start = [], [], 0
    for number, (kind, split, source, speaker, seconds) in enumerate(rows):
        n = int(seconds * RATE)
        audio = rng.standard_normal(n) * np.repeat(rng.uniform(0, 1, n // 160 + 1) ** 4, 160)[:n]
        parts.append((audio / np.abs(audio).max() * 32767).astype(np.int16))
        clips.append(
            Clip(f"/home/me/{number}.wav", kind, source, speaker, f"g{number}", split, 40.0, None, start, n, 1e-5)
        )
        start += n
    return Corpus(clips, np.concatenate(parts))


@pytest.fixture(scope="module")
def bank() -> ResponseBank:
    responses = [np.round(simulate_room(4, i)[0] / 2 * 32767).astype(np.int16) for i in range(3)]
    starts = np.cumsum([0, *map(len, responses)]).tolist()
    rooms = [
        RoomResponse(f"r{i}", 0.3, place, starts[i], len(responses[i])) for i, place in enumerate(("", "hall", "attic"))
    ]
    return ResponseBank(tuple(rooms), np.concatenate(responses))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    speech = [("speech", "train", s, f"{s}{i % 3}", 1.0 + i) for s in "ab" for i in range(5)]
    rest = [("noise", "train", "n", "", 70.0), ("noise", "valid", "m", "", 4.0), ("speech", "valid", "v", "v", 3.0)]
    return corpus_of(*speech, *rest, ("speech", "report", "r", "r", 2.0), ("rir", "train", "i", "", 1.0))


@pytest.fixture(scope="module")
def packed(corpus: Corpus, bank: ResponseBank, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pack]:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    return folder, write_pack(corpus, bank, folder)


def test_recordings_and_rooms_come_back(corpus: Corpus, bank: ResponseBank, packed: tuple[Path, Pack]) -> None:
    folder, made = packed
    found, rooms = open_pack(folder)
    assert made.shards == 2 and made.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert made.minutes["noise", "train"] == pytest.approx(70 / 60) and set(made.minutes) == {
        (kind, split) for kind in ("speech", "noise") for split in ("train", "valid")
    }
    of = {clip.path: clip for clip in corpus.clips}
    for clip in found.clips:
        original = of[f"/home/me/{clip.path}"]  # without its folder
        assert (clip.kind, clip.split, clip.source, clip.speaker) == (
            original.kind, original.split, original.source, original.speaker,
        )  # fmt: skip
        assert (clip.group, clip.gain, clip.snr_db) == (original.group, original.gain, 40.0)
        if original.samples > 60 * RATE:
            assert clip.samples == 35 * RATE
            continue
        audio = corpus.store[original.start : original.start + original.samples].astype(np.float64)
        error = found.store[clip.start : clip.start + clip.samples] - audio
        assert 36.5 < 10 * np.log10(np.mean(audio**2) / np.mean(error**2)) < 39.5
    assert 37 < made.snr_db < 39 and sum(clip.samples == 35 * RATE for clip in found.clips) == 2
    assert [room.place for room in rooms.responses] == ["", "attic", "hall"]
    for room in rooms.responses:
        was = next(other for other in bank.responses if other.name == room.name)
        response = bank.store[was.start : was.start + was.samples].astype(np.float32)
        read = rooms.store[room.start : room.start + room.samples]
        assert (room.samples, room.rt60_s, room.place) == (was.samples, was.rt60_s, was.place)
        assert np.sum((read - response) ** 2.0) < 10**-3.5 * np.sum(response**2)
        assert np.argmax(np.abs(align(read.astype(np.float32)))) == np.argmax(np.abs(align(response)))


def test_mu_law_decodes_what_it_encodes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(encode(DECODED)[1:128], codes[1:128])
    np.testing.assert_array_equal(DECODED[encode(DECODED)], DECODED)
    every = np.arange(-32768, 32768).astype(np.int16)
    error = np.abs(DECODED[encode(every)].astype(float) - every)
    assert (error <= 4 + 0.0225 * np.abs(every.astype(float))).all() and DECODED.max() == 32767


def test_shards_keep_to_their_size_and_each_stands_for_itself(
    corpus: Corpus, bank: ResponseBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "LONGEST", 4 * RATE)
    monkeypatch.setattr(pack, "BLOCK", 50_000)
    done: list[tuple[int, int]] = []
    made = write_pack(corpus, bank, tmp_path / "all", shard_mb=0.4, progress=lambda *n: done.append(n))
    shards = sorted((tmp_path / "all").glob("clips-*.zip"))
    assert made.shards == 1 + len(shards) > 3 and max(path.stat().st_size for path in shards) <= 0.4e6
    assert done[-1][0] == done[-1][1] == len(done)
    (tmp_path / "some").mkdir()
    for name in ("rooms-000.zip", shards[0].name, shards[2].name):
        shutil.copy(tmp_path / "all" / name, tmp_path / "some")
    every, some = open_pack(tmp_path / "all")[0], open_pack(tmp_path / "some")[0]
    assert 0.3 < len(some.store) / len(every.store) < 0.9
    for i, clip in enumerate(some.clips):
        audio = some.clip(i)
        assert any(np.array_equal(audio, every.clip(j)) for j, c in enumerate(every.clips) if c.path == clip.path)


def test_every_beginning_is_a_sample_of_all() -> None:
    rows = [("speech", "train", "big", f"s{i % 10}", 4.0) for i in range(400)]
    rows += [("speech", "train", "small", f"t{i % 5}", 4.0) for i in range(100)]
    rows += [("noise", "train", "hum", "", 4.0) for _ in range(100)] + [("noise", "valid", "hum", "", 4.0)] * 4
    ordered = interleaved(corpus_of(*rows).clips)
    assert len(set(ordered)) == len(rows)
    part = ordered[:80]
    count = {
        source: sum(clip.source == source and clip.split == "train" for clip in part)
        for source in ("big", "small", "hum")
    }
    assert count["big"] == pytest.approx(2 * count["small"], abs=2) and count["small"] == pytest.approx(
        count["hum"], abs=1
    )
    assert {clip.split for clip in part[:5]} == {"train", "valid"}
    turns = [sum(clip.speaker == f"s{i}" for clip in part) for i in range(10)]
    assert max(turns) - min(turns) <= 1


def test_an_index_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "clips-000.zip", "w") as file:
        file.writestr("index.json", "[" * 100_000)
    with pytest.raises(ConfigError, match=r"not a whole shard of a pack \(nested too deeply\)"):
        open_pack(tmp_path)


def test_a_recipe_that_asks_for_other_speeds_is_refused(packed: tuple[Path, Pack]) -> None:
    data = DataConfig(pack=str(packed[0]), speeds=(0.9, 1.0))
    with pytest.raises(ConfigError, match=r"holds no speech at the speeds \[0.9\] of data.speeds"):
        open_sources(data, MixConfig(), torch.device("cpu"))


def test_what_is_no_pack_is_refused(
    packed: tuple[Path, Pack], corpus: Corpus, bank: ResponseBank, tmp_path: Path
) -> None:
    folder, _ = packed
    with pytest.raises(ConfigError, match="holds a pack already"):
        write_pack(corpus, bank, folder)
    with pytest.raises(ConfigError, match="no speech or noise in the splits extra"):
        write_pack(corpus, bank, tmp_path, ["extra"])
    with pytest.raises(ConfigError, match="no shard of clips"):
        open_pack(tmp_path)
    for name, spoil, message in (
        ("cut", lambda data: data[: len(data) // 2], "not a whole shard"),
        ("flipped", lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:], "not a whole shard"),
    ):
        shutil.copytree(folder, tmp_path / name)
        path = tmp_path / name / "clips-000.zip"
        path.write_bytes(spoil(path.read_bytes()))
        with pytest.raises(ConfigError, match=message) as found:
            open_pack(tmp_path / name)
        assert str(path) in found.value.message and found.value.hint
    (tmp_path / "old").mkdir()
    with zipfile.ZipFile(tmp_path / "old" / "clips-000.zip", "w") as file:
        file.writestr("index.json", json.dumps({"version": 0}))
    with pytest.raises(ConfigError, match="of version 0"):
        open_pack(tmp_path / "old")


ROOT = Path(__file__).resolve().parents[2]
ABSENT = (
    "soundfile soxr scipy yaml safetensors typer rich click librosa numba llvmlite lightning_fabric tensorboard "
    "huggingface_hub onnxruntime pandas matplotlib"
)


@pytest.mark.parametrize("command", ["check", "time", "train"])
def test_a_gpu_is_used_with_torch_and_numpy_alone(
    packed: tuple[Path, Pack], recipe: TrainConfig, tmp_path: Path, command: str
) -> None:
    """benchmarks/gpu.py where nothing else can be imported; the recipe comes as JSON, for YAML is a package too."""
    (tmp_path / "recipe.json").write_text(json.dumps(dump(recipe)))
    sizes = {"check": "--quick", "time": "--quick --minutes 0.2", "train": "--minutes 5"}[command]
    options = f"--recipe {tmp_path}/recipe.json --pack {packed[0]} --out {tmp_path}/out {sizes}"
    script = (
        "import runpy, sys\n"
        f"sys.modules |= dict.fromkeys({ABSENT!r}.split())\n"
        f"sys.argv = ['gpu.py', {command!r}, '--device', 'cpu', *{options!r}.split()]\n"
        f"runpy.run_path({str(ROOT / 'benchmarks/gpu.py')!r}, run_name='__main__')\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr + run.stdout
    expected = {"check": "gradient  reference", "time": "training step", "train": "step 6  loss"}[command]
    assert expected in run.stdout and "WRONG" not in run.stdout
    if command == "train":
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["last.pt.00", "train.csv"]
