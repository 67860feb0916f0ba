"""Sources of mixtures: made ahead in order, and a user's own noise beside general noise."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from sbm_cli.data.sources import Blend, batches, open_sources
from sbm_cli.training.config import TrainConfig

CPU = torch.device("cpu")


@dataclass
class Numbers:
    """Mixtures that say what was asked for: noisy is [step, item], clean is `name`."""

    name: float = 0.0
    device: torch.device = CPU
    threads: set[str] = field(default_factory=set)

    def batch(self, seed: int, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        self.threads.add(threading.current_thread().name)
        rows = torch.tensor([[step, item] for item in items], dtype=torch.float32)
        return rows, torch.full_like(rows, self.name)


def test_batches_come_in_order_from_another_thread() -> None:
    source = Numbers()
    steps = [noisy[0, 0].item() for noisy, _ in batches(source, 0, range(3, 20), range(1, 4, 2), CPU)]
    assert steps == list(range(3, 20))
    assert threading.current_thread().name not in source.threads
    noisy, _ = next(batches(source, 0, range(5, 6), range(1, 4, 2), CPU))
    assert noisy.tolist() == [[5, 1], [5, 3]]


def test_what_a_gpu_makes_is_not_made_ahead() -> None:
    source = Numbers(device=torch.device("cuda"))
    asked = batches(source, 0, range(4), range(2), CPU)
    next(asked)
    assert source.threads == {threading.current_thread().name}


def test_an_error_of_the_source_arrives() -> None:
    class Broken(Numbers):
        def batch(self, seed: int, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
            raise ValueError("no sound")

    with pytest.raises(ValueError, match="no sound"):
        next(batches(Broken(), 0, range(3), range(2), CPU))


def test_a_blend_holds_its_share_and_does_not_depend_on_the_split() -> None:
    blend = Blend(Numbers(1.0), Numbers(0.0), 0.25)
    noisy, own = blend.batch(0, 7, range(2000))
    assert own[:, 0].mean().item() == pytest.approx(0.25, abs=0.03)
    assert noisy.tolist() == [[7, item] for item in range(2000)]
    parts = [blend.batch(0, 7, range(start, 2000, 3)) for start in range(3)]
    for start, (_, part) in enumerate(parts):
        assert torch.equal(part, own[start::3])


@pytest.fixture
def tuning(recipe: TrainConfig, tmp_path: Path) -> TrainConfig:
    """The recipe's corpus as a manifest, and one recording of a hum as one's own noise."""
    rows = [
        f"{path},{kind},{kind},{'valid' if i == 0 else 'train'}"
        for kind, folders in (("speech", recipe.data.speech), ("noise", recipe.data.noise))
        for i, path in enumerate(sorted(Path(folders[0]).glob("*.wav")))
    ]
    (tmp_path / "corpus.csv").write_text("\n".join(["path,kind,source,split", *rows]))
    (tmp_path / "mine").mkdir()
    hum = 0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "mine" / "hum.wav", hum, 16000)
    data = replace(
        recipe.data,
        manifests=(str(tmp_path / "corpus.csv"),),
        speech=(),
        noise=(str(tmp_path / "mine"),),
        own_share=0.5,
    )
    plain = replace(recipe.mix, p_reverb=0.0, p_reverb_only=0.0, p_clean=0.0, p_synthetic=0.0, shelf_db=0.0)
    return replace(
        recipe, data=data, mix=replace(plain, p_two_noises=0.0, p_floor=0.0, p_band_limit=0.0, p_clipped=0.0)
    )


def hums(noisy: Tensor, clean: Tensor) -> Tensor:
    """Say of each mixture whether its noise is all at 440 Hz."""
    power = torch.fft.rfft((noisy - clean) * torch.hann_window(noisy.shape[-1])).abs().square()
    return power[:, 210:231].sum(1) > 0.9 * power.sum(1)  # bins of 2 Hz


def test_own_noise_has_its_share_and_a_set_of_its_own(tuning: TrainConfig) -> None:
    sources = open_sources(tuning.data, tuning.mix, CPU)
    fraction = hums(*sources.train.batch(0, 0, range(60))).float().mean().item()
    assert fraction == pytest.approx(0.5, abs=0.2)
    assert list(sources.valid) == ["own", "general"]
    assert hums(*sources.valid["own"].batch(0, 0, range(8))).all()
    assert not hums(*sources.valid["general"].batch(0, 0, range(8))).any()


def test_own_noise_alone_has_nothing_to_be_compared_with(recipe: TrainConfig) -> None:
    sources = open_sources(replace(recipe.data, own_share=0.5), recipe.mix, CPU)
    assert list(sources.valid) == ["own"] and not isinstance(sources.train, Blend)
    assert list(open_sources(recipe.data, recipe.mix, CPU).valid) == ["valid"]


def test_a_share_of_own_noise_needs_some(recipe: TrainConfig, tmp_path: Path) -> None:
    rows = [
        f"{path},{kind}"
        for kind, (folder,) in (("speech", recipe.data.speech), ("noise", recipe.data.noise))
        for path in sorted(Path(folder).glob("*.wav"))
    ]
    (tmp_path / "all.csv").write_text("\n".join(["path,kind", *rows]))
    data = replace(recipe.data, speech=(), noise=(), manifests=(str(tmp_path / "all.csv"),), own_share=0.5)
    assert not isinstance(open_sources(data, recipe.mix, CPU).train, Blend)
