"""Corpora and banks of room responses, made of noise, that many tests draw from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from sbm_cli.data.corpus import Corpus
from sbm_cli.data.manifest import RATE, Clip
from sbm_cli.data.room_responses import ResponseBank, RoomResponse, simulate_room


def corpus_of(recordings: Sequence[tuple[str, str, str, float]]) -> Corpus:
    """Make a corpus of (kind, speaker or group, split, seconds): speech in bursts, noise without pauses."""
    rng = np.random.default_rng(0)
    clips, parts, start = [], [], 0
    for number, (kind, name, split, seconds) in enumerate(recordings):
        n = int(seconds * RATE)
        audio = rng.standard_normal(n)
        if kind == "speech":
            audio *= np.sin(2 * np.pi * 2 * np.arange(n) / RATE) > -0.3
        speaker = name if kind == "speech" else ""
        clips.append(Clip(str(number), kind, kind + name[0], speaker, name, split, 40.0, None, start, n, 1e-5))
        parts.append((audio * 5000).clip(-32767, 32767).astype(np.int16))
        start += n
    return Corpus(clips, np.concatenate(parts))


def bank_of(*responses: Tensor, place: str = "") -> ResponseBank:
    """Make a bank of aligned responses, the first one simulated, the others measured at a place if that has a name."""
    parts = [(x / x.abs().max() * 32767).round().numpy().astype(np.int16) for x in responses]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    rooms = [RoomResponse(str(i), 0.4, place if i else "", starts[i], len(part)) for i, part in enumerate(parts)]
    return ResponseBank(tuple(rooms), np.concatenate(parts))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    speech = [("speech", f"{s}{i}", "train", 2.0) for s in "ab" for i in range(3)]
    noise = [("noise", "x1", "train", 4.0), ("noise", "x2", "train", 0.3), ("noise", "y1", "train", 0.7)]
    return corpus_of([*speech, *noise, ("speech", "v", "valid", 2.0), ("noise", "w", "valid", 2.0)])


@pytest.fixture(scope="module")
def rooms() -> ResponseBank:
    return bank_of(torch.from_numpy(simulate_room(5, 1)[0]))
