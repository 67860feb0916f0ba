"""`sbm live`: clean what is being said right now."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbm_cli.cli.shared import console
from sbm_cli.cli.shared.options import PIPE, Model, Raw, load_enhancer, raw_format
from sbm_cli.cli.shared.process import interrupted_by_signals
from sbm_cli.errors import DependencyError, SbmError
from sbm_cli.options import FOR_LIVE, Knob, Options

if TYPE_CHECKING:
    from sbm_cli.audio.format import AudioFormat
    from sbm_cli.audio.pipe import PipeWriter
    from sbm_cli.audio.writer import SoundWriter
    from sbm_cli.live.session import Session, Sink, Source

MODEL = "sbm-live"  # has no look-ahead
_BYPASS = (" ", "b")  # keys
_TICK = 0.1  # s between two looks at keys and levels
_WARN_EVERY = 10.0  # s
_PATIENCE = 5.0  # s for the end of what was begun
_METER_WIDTH, _METER_FLOOR = 20, -60  # characters, dB of full scale


def live(
    *,
    input: Annotated[
        str | None, Knob("Microphone, by number or part of its name.", "DEVICE", absent="the system's", short="i")
    ] = None,
    output: Annotated[
        str | None,
        Knob(
            "Loudspeaker or virtual device, by number or part of its name; a sound file; or - for stdout.",
            "DEVICE|FILE|-",
            absent="the system's",
            short="o",
        ),
    ] = None,
    list_devices: Annotated[bool, Knob("List the devices and exit.")] = False,
    raw: Raw = None,
    record: Annotated[
        Path | None, Knob("Record input and output, in step, as two channels of a sound file.", "FILE")
    ] = None,
    overwrite: Annotated[bool, Knob("Replace existing files.", short="y")] = False,
    seconds: Annotated[float | None, Knob("Stop after S seconds of sound.", "S", 0)] = None,
    buffer: Annotated[
        float, Knob("Extra delay of a device's output; more of it prevents underruns.", "MS", 0, 1000)
    ] = 10.0,
    options: Annotated[Options, FOR_LIVE],
    model: Model = MODEL,
) -> None:
    """Clean speech as it is spoken, for headphones, a call or a file.

    Press space or b to compare with the input, Ctrl-C to stop. Wear headphones, or the microphone hears the output.
    Devices need the extra "live"; raw samples through pipes do not.

    \b
    Examples:
      sbm live --list-devices
      sbm live -i USB -o "CABLE Input"           # for other programs to record
      sbm live -o clean.flac --seconds 60
      sbm live --record both.wav --attenuation-limit 20
      arecord -f S16_LE -r 16000 -t raw | sbm live --raw 16000 -o - \\
        | aplay -f S16_LE -r 16000
    """
    if list_devices:
        _list_devices()
        return
    if raw is not None and input is not None:
        raise typer.BadParameter("give only one of them", param_hint="--input, --raw")
    if raw is not None and sys.stdin.isatty():
        raise SbmError("stdin is a terminal, not a file or pipe.", "Send it samples: arecord … | sbm live --raw …")
    if output == PIPE and sys.stdout.isatty():
        raise SbmError("stdout is a terminal, not a file or pipe.", "Send it on: sbm live -o - … | aplay …")
    if record is not None and output is not None and os.path.realpath(record) == os.path.realpath(output):
        raise typer.BadParameter(f"{record} is also the output; record into another file", param_hint="--record")
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("give a number of seconds, or leave it out", param_hint="--seconds")
    from sbm_cli.audio.format import OUTPUT_SUFFIXES, AudioFormat
    from sbm_cli.audio.pipe import Pipe
    from sbm_cli.live.devices import Loudspeaker, Microphone, sound_system
    from sbm_cli.live.pipes import Output, RawInput

    form = None if raw is None else raw_format(raw)
    # A device, unless it is stdout or, by its suffix, a sound file.
    place = output if output == PIPE or Path(output or "").suffix.lower() in OUTPUT_SUFFIXES else None
    if form is None or place is None:
        try:
            sound_system()  # before the model is loaded: it may be missing
        except DependencyError as error:
            pipe = "" if form is None else "\nWithout a loudspeaker, send the sound on: -o - or -o clean.wav"
            raise DependencyError(error.message, f"{error.hint}{pipe}") from error

    from sbm_cli.live.session import Session

    enhancer = load_enhancer(model, "cpu")
    rate, hop = enhancer.config.rate, enhancer.config.stft.hop
    with interrupted_by_signals(), ExitStack() as files:
        source: Source
        if form is None:
            source = Microphone(input, rate)
        else:
            # Unbuffered: a thread that waits in a buffered reader would not let the process end.
            source = RawInput(Pipe.from_here(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), form), rate, hop)
        both = AudioFormat(rate, 2 * source.channels, None, "WAV", "PCM_16")
        recorder = None if record is None else _create(files, record, both, overwrite)[0]
        sink: Sink
        if place is None:
            sink = Loudspeaker(output, rate, hop, buffer / 1000, wait=form is not None)
        else:
            like = form or AudioFormat(rate, 1, None, "RAW", "PCM_16")
            sink = Output(*_create(files, place, like, overwrite), rate)
        session = Session(enhancer, source, sink, options, recorder, seconds)
        _attend(session)
    if isinstance(session.error, BrokenPipeError):  # the reader has enough
        console.drop(sys.stdout)
        raise typer.Exit(console.CLOSED_PIPE)
    for note in source.notes:
        console.warn(note)
    console.note(f"{session.seconds:.1f} s of sound" + (f", recorded in {record}" if record else ""))
    if session.error is not None:
        raise session.error


def _list_devices() -> None:
    from sbm_cli.live.devices import list_devices

    devices = list_devices()
    if not devices:
        console.note("no sound devices; --raw and -o - take sound from and to other programs")
    for device in devices:
        default = f"  (default {' and '.join(device.default)})" if device.default else ""
        ends = f"{device.inputs} in, {device.outputs} out, {device.rate} Hz"
        console.data(f"{device.index:>3}  {device.name}  [{device.system}: {ends}]{default}")


def _create(
    files: ExitStack, place: str | Path, like: AudioFormat, overwrite: bool
) -> tuple[SoundWriter | PipeWriter, AudioFormat]:
    """Open a sound file, or stdout for bare samples, and return it with its format."""
    from sbm_cli.audio.format import format_for
    from sbm_cli.audio.pipe import Pipe
    from sbm_cli.audio.writer import open_writer

    if place == PIPE:
        return files.enter_context(open_writer(Pipe(sys.stdout.buffer), like)), like
    form = format_for(place, dataclasses.replace(like, container="WAV"))
    return files.enter_context(open_writer(Path(place), form, overwrite)), form


def _attend(session: Session) -> None:
    """Run a session, with levels and keys on a terminal, until it ends or is interrupted."""
    announced, glitches, warned = False, session.glitches, -math.inf
    try:
        session.start()
        with console.status_line() as show, _keyboard() as pressed:
            while not session.finished.is_set():
                if pressed(_TICK) in _BYPASS:
                    session.bypassed = not session.bypassed
                show(_meter(session))
                if not announced and session.seconds:  # the first blocks have shown how long they are
                    announced = True
                    parts = {name: round(1000 * seconds) for name, seconds in session.latency.items()}
                    shown = ", ".join(f"{name} {part}" for name, part in parts.items())
                    console.note(f"latency {sum(parts.values())} ms: {shown}")
                if session.glitches != glitches and time.monotonic() - warned > _WARN_EVERY:
                    glitches, warned = session.glitches, time.monotonic()
                    _warn(glitches)
    except KeyboardInterrupt:  # how it usually ends
        session.stop()
        if not session.finished.wait(_PATIENCE):
            console.warn("the output accepts no more sound: the last of it is lost")
    if session.glitches != glitches:
        _warn(session.glitches)


def _warn(glitches: dict[str, int]) -> None:
    console.warn(
        "so far " + ", ".join(f"{count} {name}" for name, count in glitches.items() if count),
        "The machine is too busy, or the output too slow; a larger --buffer or --model sbm-tiny may help.",
    )


def _meter(session: Session) -> str:
    parts = []
    for name, peak in zip(("in", "out"), session.peaks(), strict=True):
        level = max(_METER_FLOOR, 20 * math.log10(max(peak, 1e-9)))
        filled = round(_METER_WIDTH * min(1, 1 - level / _METER_FLOOR))
        parts.append(f"{name} {'#' * filled:-<{_METER_WIDTH}} {level:3.0f} dB")
    return "  ".join([*parts, f"{session.seconds:.0f} s", *["bypassed"] * session.bypassed])


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Give a function that returns the key that is pressed within so many seconds, "" if none is."""

    def none(seconds: float) -> str:
        time.sleep(seconds)
        return ""

    if not sys.stdin.isatty():
        yield none
    elif sys.platform == "win32":
        import msvcrt

        yield lambda seconds: none(seconds) or (msvcrt.getwch() if msvcrt.kbhit() else "")
    else:
        import termios
        import tty

        terminal = sys.stdin.fileno()
        if os.tcgetpgrp(terminal) != os.getpgrp():  # in the background, where the terminal is another's
            yield none
            return

        def pressed(seconds: float) -> str:
            ready, _, _ = select.select([terminal], [], [], seconds)
            return os.read(terminal, 1).decode("latin-1") if ready else ""

        before = termios.tcgetattr(terminal)
        tty.setcbreak(terminal)
        try:
            yield pressed
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
