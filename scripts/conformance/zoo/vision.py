"""Networks that see images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.conformance.zoo.network import Network, normal, pixels


class NatureCnn(nn.Module):
    """Network of DQN for stacked frames (Mnih et al. 2015), for 84x84 bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, 1), nn.ReLU(), nn.Flatten()),
        )
        self.head = nn.Sequential(nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6))

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.convolutions(frames.float() / 255))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ImpalaResNet(nn.Module):
    """Residual network of IMPALA (Espeholt et al. 2018) with the state of its LSTM as an argument."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 8), (8, 16)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(3, 2, 1), _Residual(after)]
        self.body = nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 32), nn.ReLU())
        self.core, self.logits = nn.LSTMCell(32, 32), nn.Linear(32, 5)

    def forward(
        self, frame: Tensor, state: tuple[Tensor, Tensor], done: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        kept = (~done).float().unsqueeze(-1)
        hidden, cell = self.core(self.body(frame.float() / 255), (state[0] * kept, state[1] * kept))
        return self.logits(hidden), (hidden, cell)


class DictCnnLstm(nn.Module):
    """Convolutions and an LSTM on a Dict observation with an image, a vector and an index."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ELU(), nn.Flatten(), nn.Linear(200, 16))
        self.index = nn.Embedding(5, 4)
        self.lstm = nn.LSTM(16 + 3 + 4, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(
        self, observation: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        seen = self.image(observation["image"].float() / 255)
        joined = torch.cat((seen, observation["speed"], self.index(observation["room"])), -1)
        before = (state["hidden"].unsqueeze(0), state["cell"].unsqueeze(0))
        out, (hidden, cell) = self.lstm(joined.unsqueeze(1), before)
        return {"logits": self.head(out[:, 0])}, {"hidden": hidden[0], "cell": cell[0]}


class SeparableConvolutions(nn.Module):
    """Depthwise, pointwise and dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 9, 3, groups=3, padding=1), nn.Conv2d(9, 16, 1), nn.Hardswish()),
            *(nn.Conv2d(16, 16, 3, dilation=2), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Decoder(nn.Module):
    """Transposed convolutions in groups and a bilinear resize, as in the decoder of a world model."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 16 * 9)
        self.first = nn.ConvTranspose2d(16, 8, 4, 2, 1, groups=4)
        self.second = nn.ConvTranspose2d(8, 3, 3, 2, 1, output_padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = functional.gelu(self.first(self.start(latent).unflatten(-1, (16, 3, 3))))
        return functional.interpolate(self.second(x), scale_factor=2.0, mode="bilinear")


class BatchNormCnn(nn.Module):
    """Batch normalisation after convolutions and linear layers, with statistics of a training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(72, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
        with torch.no_grad():
            for norm in (self.body[1], self.head[1]):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Film(nn.Module):
    """Features of an image, scaled and moved by an instruction (Perez et al. 2018), with group normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8, affine=False)
        self.instruction = nn.Linear(5, 16)
        self.head = nn.Linear(8, 4)

    def forward(self, image: Tensor, instruction: Tensor) -> Tensor:
        scale, offset = self.instruction(instruction)[..., None, None].chunk(2, 1)
        x = torch.relu(self.first(image))
        x = x + torch.relu((1 + scale) * self.norm(self.second(x)) + offset)
        return self.head(x.mean((2, 3)))


def _impala(n: int) -> tuple[object, ...]:
    return pixels(n, 3, 24, 24), (torch.randn(n, 32), torch.randn(n, 32)), torch.rand(n) < 0.3


def _observations(n: int) -> tuple[object, ...]:
    observation = {"image": pixels(n, 3, 12, 12), "speed": torch.randn(n, 3), "room": torch.randint(0, 5, (n,))}
    return observation, {"hidden": torch.randn(n, 16), "cell": torch.randn(n, 16)}


NETWORKS = (
    Network("Nature CNN", NatureCnn, lambda n: (pixels(n, 4, 84, 84),)),
    Network("IMPALA ResNet", ImpalaResNet, _impala, (1,)),
    Network("CNN and LSTM on a Dict", DictCnnLstm, _observations, (1,)),
    Network("depthwise and dilated convolutions", SeparableConvolutions, normal(3, 10, 10)),
    Network("transposed and grouped convolutions", Decoder, normal(8)),
    Network("batch normalisation", BatchNormCnn, normal(3, 8, 8)),
    Network("FiLM", Film, lambda n: (torch.randn(n, 3, 8, 8), torch.randn(n, 5))),
)
