"""A corpus of hostile files: each is refused in words or enhanced correctly, and nothing is lost or left half-written.

Every case is an `sbm enhance` in a process of its own, forked from one that has imported everything already.
docs/robustness.md shows the cases below; `make docs` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from sbm_cli.audio.io import SoundReader, read_format

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forks, and names and limits of files as Linux has them"
)
MOST_MEMORY = 1_500_000  # kB

FORKS = """
import json, os, resource, signal, sys
from sbm_cli.audio.io import SoundReader
from sbm_cli.cli.app import main

def run(arguments):
    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)

def changing(blocks, change):
    def read(reader, size):
        for block in blocks(reader, size):
            yield block
            exec(change)
    return read

run(sys.argv[1:])  # once for all: imports and compiles
for line in sys.stdin:
    case = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(60)
        os.chdir(case["folder"])
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(case["folder"] + name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        if case["disc"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (case["disc"], case["disc"]))
        SoundReader.blocks = changing(SoundReader.blocks, case["meanwhile"])
        os._exit(run(case["arguments"]))
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_maxrss, flush=True)
"""


@dataclass(frozen=True)
class Case:
    """A hostile input, made by `make` in an empty folder, and what becomes of it."""

    what: str
    make: Callable[[], object]  # in the folder
    says: str = ""  # what stderr begins with, behind "sbm: "; nothing: the output is as it should be
    source: str = "in.wav"
    target: str = "out.wav"
    options: tuple[str, ...] = ()
    disc: int | None = None  # bytes that a file may have
    meanwhile: str = ""  # Python, run in the folder whenever a block was read
    status: int = 1  # if it is refused


def sound(samples: int = 4000, channels: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(0).uniform(-0.1, 0.1, (samples, channels))


def write(samples: NDArray[np.float64] | None = None, rate: int = 16000, name: str = "in.wav", **form: str) -> None:
    soundfile.write(os.fsencode(name), sound() if samples is None else samples, rate, **form)


def wav(channels: int = 1, rate: int = 16000, bits: int = 16, align: int = 2, data: int = 2000, tag: int = 1) -> None:
    """Write a WAV of 1000 samples of 16 bits, and what its header is to say of them."""
    layout = struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * align % 2**32, align, bits)
    Path("in.wav").write_bytes(
        b"RIFF"
        + struct.pack("<I", 2036)
        + b"WAVEfmt "
        + layout
        + b"data"
        + struct.pack("<I", data)
        + bytes(range(250)) * 8
    )


def huge(container: str) -> None:
    """Write the header of 5 GiB and its first sample, NaN: what comes behind it is the hole of a sparse file."""
    write(np.array([np.nan]), format=container, subtype="FLOAT")
    size = 5 * 2**30
    with open("in.wav", "r+b") as file:
        header = file.read()
        name = header.index(b"data")
        if container == "RF64":
            file.seek(header.index(b"ds64") + 8)
            file.write(struct.pack("<QQQ", size - 8, size - name - 8, (size - name - 8) // 4))
        else:
            file.seek(16)
            file.write(struct.pack("<Q", size))
            file.seek(name + 16)
            file.write(struct.pack("<Q", size - name))
        file.truncate(size)
    assert size / 4 - 100 < read_format("in.wav").samples <= size / 4


def cut() -> None:
    """Write a sound file and lose half of it."""
    write()
    os.truncate("in.wav", 4000)


def loop(name: str) -> None:
    Path(name).symlink_to("other")
    Path("other").symlink_to(name)


def unwritable(folder: bool = False) -> None:
    write()
    if folder:
        Path("closed").mkdir(0o555)
    else:
        write(np.zeros(9), name="out.wav")
        Path("out.wav").chmod(0o444)


def unreadable() -> None:
    write()
    Path("in.wav").chmod(0)


GROUPS = {
    "Headers": [
        Case(
            "header promises more than is there",
            lambda: wav(data=4000),
            "in.wav: truncated: its header promises 4000 bytes, 2000",
        ),
        Case("header promises 0 samples", lambda: wav(data=0), "in.wav: its header says 0 samples, but more follows"),
        Case("header promises 2 GiB, as written into a pipe", lambda: wav(data=0x7FFFF000)),
        Case("0 channels", lambda: wav(channels=0, align=0), "in.wav: not a sound file"),
        Case("64 channels", lambda: write(sound(1600, 64))),
        Case("65535 channels", lambda: wav(channels=65535), "in.wav: not a sound file"),
        Case("0 Hz", lambda: wav(rate=0), "in.wav: not a sound file"),
        Case("1 Hz", lambda: write(sound(20), 1)),
        Case("768 kHz", lambda: write(sound(76800), 768_000)),
        Case("2147483647 Hz", lambda: write(sound(1000), 2**31 - 1)),
        Case("4294967295 Hz", lambda: wav(rate=2**32 - 1), "in.wav: not a sound file"),
        Case("0 bits", lambda: wav(bits=0), "in.wav: not a sound file"),
        Case("samples of 0 bytes", lambda: wav(align=0)),
        Case("an unknown codec", lambda: wav(tag=0xABC), "in.wav: not a sound file"),
        Case("RF64 of 5 GiB in a sparse file, NaN first", lambda: huge("RF64"), "in.wav: sample 0 (at 0.000 s) is NaN"),
        Case("W64 of 5 GiB in a sparse file, NaN first", lambda: huge("W64"), "in.wav: sample 0 (at 0.000 s) is NaN"),
    ],
    "Samples": [
        Case("NaN", lambda: write(np.array([0.1, np.nan]), subtype="FLOAT"), "in.wav: sample 1 (at 0.000 s) is NaN"),
        Case(
            "infinity", lambda: write(np.array([0.1, np.inf]), subtype="FLOAT"), "in.wav: sample 1 (at 0.000 s) is NaN"
        ),
        Case(
            "NaN and infinity, --replace-nan",
            lambda: write(np.array([np.nan, np.inf] * 999), subtype="FLOAT"),
            options=("--replace-nan",),
        ),
        Case("denormals", lambda: write(sound() * 1e-38, subtype="FLOAT")),
        Case(
            "the largest floats",
            lambda: write(np.full(9, 3e38), subtype="FLOAT"),
            "in.wav: sample 0 (at 0.000 s) is NaN",
        ),
        Case("floats of a million times full scale", lambda: write(sound() * 1e6, subtype="FLOAT")),
        Case("DC", lambda: write(np.full(4000, 0.99))),
        Case("a square wave at full scale", lambda: write(np.sign(sound()))),
        Case("digital silence", lambda: write(np.zeros(4000))),
        Case("one sample", lambda: write(sound(1))),
        Case("no sample", lambda: write(sound(0))),
    ],
    "Files and names": [
        Case(
            "0 bytes",
            lambda: Path("in.wav").touch(),
            "in.wav: not a sound file (it is empty, 0 bytes)",
        ),
        Case("text", lambda: Path("in.wav").write_text("dear diary\n" * 99), "in.wav: not a sound file"),
        Case("half of a file", cut, "in.wav: truncated: "),
        Case("no file", lambda: None, "in.wav: no such file or folder"),
        Case("a pipe", lambda: os.mkfifo("in.wav"), "in.wav: is not a regular file"),
        Case("a device", lambda: None, "/dev/zero: is not a regular file", "/dev/zero"),
        Case("a link to itself", lambda: loop("in.wav"), "in.wav: too many levels of symbolic links"),
        Case("a link to nothing", lambda: Path("in.wav").symlink_to("none"), "in.wav: no such file or directory"),
        Case("a file that may not be read", unreadable, "in.wav: permission denied"),
        Case("names with spaces", lambda: write(name=" in  1.wav"), source=" in  1.wav", target="out 1 .wav"),
        Case("names with newlines", lambda: write(name="in\n1.wav"), source="in\n1.wav", target="out\n1.wav"),
        Case("names outside ASCII", lambda: write(name="grüße 音.wav"), source="grüße 音.wav", target="ôut🔊.wav"),
        Case(
            "names that are no text", lambda: write(name="in\udcff.wav"), source="in\udcff.wav", target="out\udcfe.wav"
        ),
        Case("names that are patterns", lambda: write(name="[a]*.wav"), source="[a]*.wav", target="?.wav"),
        Case(
            "names of 255 bytes",
            lambda: write(name="n" * 251 + ".wav"),
            source="n" * 251 + ".wav",
            target="m" * 251 + ".wav",
        ),
    ],
    "Outputs": [
        Case("an output that exists", lambda: (write(), write(name="out.wav")), "out.wav exists."),
        Case("the input as output", write, "in.wav exists.", target="in.wav"),
        Case("the input as output, --overwrite", write, target="in.wav", options=("--overwrite",)),
        Case(
            "a bad input as output, --overwrite",
            lambda: write(np.array([*sound(40_000)[:, 0], np.nan]), subtype="FLOAT"),
            "in.wav: sample 40000 (at 2.500 s) is NaN",
            target="in.wav",
            options=("--overwrite",),
        ),
        Case(
            "a link to the input as output", lambda: (write(), Path("out.wav").symlink_to("in.wav")), "out.wav exists."
        ),
        Case("an output that is read-only, --overwrite", unwritable, "out.wav: is read-only", options=("--overwrite",)),
        Case(
            "an output in a read-only folder",
            lambda: unwritable(folder=True),
            "closed/out.wav: cannot be written (permission denied)",
            target="closed/out.wav",
        ),
        Case("an output that is a link to itself", lambda: (write(), loop("out.wav")), "out.wav exists."),
        Case("an output in no folder", write, "none: no such folder", target="none/out.wav"),
        Case(
            "an output below a file",
            write,
            "in.wav: not a folder",
            target="in.wav/out.wav",
        ),
        Case(
            "an output that is a pipe",
            lambda: (write(), os.mkfifo("out.wav")),
            "out.wav: not a regular file",
        ),
        Case(
            "an output of no known format",
            write,
            "out.xyz: no sound format for suffix .xyz",
            target="out.xyz",
            status=2,
        ),
        Case("a disc that fills up", lambda: write(sound(50_000)), "out.wav: writing failed at ", disc=30_000),
        Case("a disc that is full at the last byte", write, "out.wav: writing failed at ", disc=8043),
    ],
    "While it is read": [
        Case(
            "an input that grows while it is read",
            lambda: write(sound(50_000)),
            "in.wav: changed while it was read",
            meanwhile="open('in.wav', 'ab').write(bytes(1000))",
        ),
        Case(
            "an input that is written over while it is read",
            lambda: write(sound(50_000)),
            "in.wav: changed while it was read",
            meanwhile="open('in.wav', 'r+b').write(b'RIFF')",
        ),
        Case(
            "an input that another file replaces while it is read",
            lambda: write(sound(50_000)),
            meanwhile="open('new', 'wb').write(b'other'); os.replace('new', 'in.wav')",
        ),
        Case(
            "an input that is cut while it is read",
            lambda: write(sound(50_000)),
            "in.wav: truncated or damaged: readable for ",
            meanwhile="os.truncate('in.wav', 40_000)",
        ),
        Case(
            "an input that vanishes while it is read",
            lambda: write(sound(50_000)),
            meanwhile="os.path.exists('in.wav') and os.unlink('in.wav')",
        ),
    ],
}
CASES = [case for cases in GROUPS.values() for case in cases]


def table() -> str:
    """Return what docs/robustness.md shows of them."""

    def outcome(cases: list[Case]) -> str:
        refused = sum(bool(case.says) for case in cases)
        return f"{refused} refused, {len(cases) - refused} enhanced"

    rows = [f"| {len(CASES)} cases | {outcome(CASES)} |", "|---|---|"]
    for group, cases in GROUPS.items():
        rows += [f"| **{group}** | **{outcome(cases)}** |"]
        rows += [f"| {case.what} | {f'`{case.says.strip()} …`' if case.says else 'enhanced'} |" for case in cases]
    return "\n".join(rows) + "\n"


Forks = Callable[[Case, Path], tuple[int, str, str]]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Iterator[Forks]:
    """Return a function that runs `sbm enhance` on a case, and gives its status and what it said."""
    warm = tmp_path_factory.mktemp("warm") / "in.wav"
    soundfile.write(warm, sound(), 16000)
    # The permissions of files do not bind root, so it gives up what sets it above them.
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root without setpriv: no permission binds it")
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    arguments = ["enhance", str(warm), "-o", str(warm.with_name("out.wav")), "-q", "-m", str(model_file)]
    with subprocess.Popen(
        [*rights, sys.executable, "-c", FORKS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(case: Case, folder: Path) -> tuple[int, str, str]:
            assert process.stdin and process.stdout
            arguments = ["enhance", case.source, "-o", case.target, "-m", str(model_file), *case.options]
            asked = {"folder": str(folder), "arguments": arguments, "disc": case.disc, "meanwhile": case.meanwhile}
            print(json.dumps(asked), file=process.stdin, flush=True)
            status, memory = map(int, process.stdout.readline().split())
            assert memory < MOST_MEMORY
            return status, *(Path(f"{folder}{name}").read_text(errors="surrogateescape") for name in ("out", "err"))

        yield run


def contents(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a folder: of each file how large and how old it is, and a digest of its beginning."""

    def begins(path: Path) -> str:
        if not path.is_file() or not os.access(path, os.R_OK):
            return ""
        with path.open("rb") as file:
            return hashlib.sha256(file.read(2**20)).hexdigest()

    return {
        path.name: ((found := path.lstat()).st_ino, found.st_size, found.st_mtime_ns, begins(path))
        for path in folder.iterdir()
    }


def length(path: str) -> int:
    with SoundReader(path) as reader:
        return sum(block.shape[1] for block in reader.blocks(10_000))


FORM = ("frames", "samplerate", "channels", "format", "subtype")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_refused_in_words_or_enhanced(
    case: Case, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    monkeypatch.chdir(folder)
    case.make()
    before = contents(folder)
    form = None if case.says else soundfile.info(os.fsencode(case.source))
    status, out, err = forks(case, folder)
    after = contents(folder)
    if case.meanwhile:
        assert after.pop(case.source, None) != before.pop(case.source)  # it did happen
    assert out == "" and "Traceback" not in err and "This is a bug" not in err, err
    if form is None:
        assert (status, after) == (case.status, before), err
        assert err.startswith(f"sbm: {case.says}"), err
    else:
        assert status == 0, err
        made = after.pop(case.target)
        assert made != before.pop(case.target, None) and after == before
        with soundfile.SoundFile(os.fsencode(case.target)) as target:
            assert [getattr(target, name) for name in FORM] == [getattr(form, name) for name in FORM]
            assert np.isfinite(target.read()).all()


FORMS = [
    ("WAV", "PCM_16", ".wav"),
    ("WAV", "FLOAT", ".wav"),
    ("WAV", "IMA_ADPCM", ".wav"),
    ("WAVEX", "PCM_24", ".wav"),
    ("RF64", "PCM_16", ".wav"),
    ("W64", "PCM_16", ".w64"),
    ("AIFF", "PCM_16", ".aiff"),
    ("AU", "PCM_16", ".au"),
    ("CAF", "ALAC_16", ".caf"),
    ("FLAC", "PCM_16", ".flac"),
    ("OGG", "VORBIS", ".ogg"),
    ("OGG", "OPUS", ".opus"),
    ("MP3", "MPEG_LAYER_III", ".mp3"),
]


@pytest.mark.parametrize(("container", "subtype", "suffix"), FORMS)
def test_bytes_changed_at_random(
    container: str, subtype: str, suffix: str, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"{container} {subtype}")
    case = Case("", write, source=f"in{suffix}", target=f"out{suffix}")
    for trial in range(6):
        folder = tmp_path / str(trial)
        folder.mkdir()
        monkeypatch.chdir(folder)
        write(sound(1000, 2), name=case.source, format=container, subtype=subtype)
        content = bytearray(Path(case.source).read_bytes())
        for _ in range(chance.choice([1, 2, 4])):
            start = chance.randrange(min(len(content), 200))
            content[start : start + 4] = chance.choice([chance.randbytes(4), b"\0\0\0\0", b"\xff\xff\xff\x7f"])
        Path(case.source).write_bytes(content)
        before = contents(folder)
        status, _, err = forks(case, folder)  # libsndfile's ALAC decoder prints on stdout
        after = contents(folder)
        assert "Traceback" not in err and "This is a bug" not in err, err
        assert (status == 0) == (after.pop(case.target, None) is not None) and after == before
        if status == 0:
            assert length(case.target) == length(case.source)
