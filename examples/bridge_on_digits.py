"""A bridge on pictures: clean noisy digits, and sharpen coarse ones, with the same classes that clean speech.

    pip install "sbm-cli[plot]" scikit-learn
    python examples/bridge_on_digits.py

A minute on one core. The digits (8 x 8 pixels, from UCI) are part of scikit-learn; no pixel of this is about sound.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sbm_cli.bridge.sampler import sample
from sbm_cli.bridge.schedule import VE, sample_state
from sbm_cli.nn.blocks import NarrowBandBlock, TimeEmbedding

SCHEDULE = VE(k=2.6, c=0.4)
STEPS = 5  # of the sampler, beside a single one
SHOWN = 10  # digits in the picture
SCALE = 5  # pixels of the picture for one of a digit


class RowNetwork(nn.Module):
    """Data prediction: a Mamba walks down the rows and one walks up; state, noisy [batch, 8, 8], t [batch]."""

    def __init__(self, channels: int = 64, blocks: int = 2, embedding: int = 16) -> None:
        super().__init__()
        self.time = TimeEmbedding(embedding)
        self.encoder = nn.Linear(16, channels)
        self.blocks = nn.ModuleList(NarrowBandBlock(channels, 8, embedding) for _ in range(2 * blocks))
        self.decoder = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 8))

    def forward(self, state: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        embedding = self.time(t)
        x = self.encoder(torch.cat([state, noisy], -1)).unsqueeze(2)  # [batch, row, 1, channels]
        for block in self.blocks:
            x = block(x, embedding)[0].flip(1)
        estimate: Tensor = noisy + self.decoder(x.squeeze(2))
        return estimate


def add_noise(clean: Tensor) -> Tensor:
    return clean + 0.5 * torch.randn_like(clean)


def make_coarse(clean: Tensor) -> Tensor:
    """Keep one value of every 2 x 2 pixels."""
    return F.interpolate(F.avg_pool2d(clean[:, None], 2), scale_factor=2.0)[:, 0]


TASKS: dict[str, Callable[[Tensor], Tensor]] = {"denoise": add_noise, "upscale": make_coarse}


def digits() -> tuple[Tensor, Tensor]:
    """Return digits to learn from and others to try, [n, 8, 8] from -1 to 1."""
    from sklearn.datasets import load_digits

    pictures = torch.from_numpy(load_digits().images).float() / 8 - 1
    return pictures[:1500], pictures[1500:]


def train(degrade: Callable[[Tensor], Tensor], clean: Tensor, steps: int) -> RowNetwork:
    """Learn to predict the clean digit from a state anywhere on the bridge, half of the time from its noisy end."""
    network = RowNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x0 = clean[torch.randint(len(clean), (64,))]
        y = degrade(x0)
        t = torch.where(torch.rand(64) < 0.5, 1.0, torch.rand(64))
        estimate = network(sample_state(SCHEDULE, x0, y, t, torch.randn_like(x0)), y, t)
        loss = (estimate - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def draw(rows: list[Tensor], path: Path) -> None:
    """Write pictures [n, 8, 8], one list of them a row, black on white."""
    from PIL import Image

    sheet = torch.cat([torch.cat([F.pad(x, (1, 1, 1, 1), value=-1) for x in row], 1) for row in rows])
    grey = ((1 - sheet.clamp(-1, 1)) * 127.5).byte().repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)
    Image.fromarray(grey.numpy()).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=600, help="of training, for each task")
    parser.add_argument("-o", "--output", type=Path, default=Path("digits.png"))
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    known, new = digits()
    rows = []
    print(f"{'RMS error':<12}{'input':>8}{'1 step':>8}{f'{STEPS} steps':>9}")
    for name, degrade in TASKS.items():
        network = train(degrade, known, options.steps)
        noisy = degrade(new)
        with torch.no_grad():
            found = sample(network, SCHEDULE, noisy, 1), sample(network, SCHEDULE, noisy, STEPS, "sde")
        print(f"{name:<12}{rms(noisy - new):>8.3f}{rms(found[0] - new):>8.3f}{rms(found[1] - new):>9.3f}")
        rows += [x[:SHOWN] for x in (noisy, *found, new)]
    draw(rows, options.output)
    print(f"\n{options.output}: for each task the input, 1 step, {STEPS} steps and the digit itself, row by row.")


if __name__ == "__main__":
    main()
