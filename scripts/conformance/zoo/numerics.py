"""Unusual layers, weights and number types."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from scripts.conformance.zoo.network import Network, mlp, normal


class SpectralNorm(nn.Module):
    """Layers with spectral and weight normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.spectral_norm(nn.Linear(6, 16))
        self.second = parametrizations.weight_norm(nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Int8Weights(nn.Module):
    """Layer whose weights are int8 numbers with a scale for each output, which new versions replace."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(16, 6)
        scale = weight.abs().amax(-1, keepdim=True) / 127
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(functional.linear(x, self.weight.to(x.dtype) * self.scale)))


def dynamic_int8() -> nn.Module:
    """Return a network of torch's dynamic quantization, whose packed weights no version can hold."""
    return torch.ao.quantization.quantize_dynamic(mlp(6, 16, 3), {nn.Linear}, dtype=torch.qint8)


class BFloat16(nn.Module):
    """Network that computes in bfloat16, with float32 at its ends."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 16, 3).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(torch.bfloat16)).float()


class ComplexWeights(nn.Module):
    """Layer with complex weights, whose magnitudes are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8, dtype=torch.complex64))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.abs(x.to(torch.complex64) @ self.weight))


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(_: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(_: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0]


class CustomAutograd(nn.Module):
    """Rounds in the forward pass, and passes gradients as if it did not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(_Round.apply(4 * self.first(x)) / 4)


class WithEinops(nn.Module):
    """Patches of an image, rearranged and reduced by einops."""

    def __init__(self) -> None:
        super().__init__()
        from einops.layers.torch import Rearrange

        self.patches, self.embed = Rearrange("b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4), mlp(48, 8)
        self.logits = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        from einops import reduce

        return self.logits(reduce(self.embed(self.patches(image)), "b n d -> b d", "mean"))


class FourierFeatures(nn.Module):
    """Random Fourier features of the observation (Tancik et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(5, 16))
        self.head = mlp(32, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * torch.pi * x @ self.frequencies
        return self.head(torch.cat((angle.sin(), angle.cos()), -1))


class SplineLayer(nn.Module):
    """Layer of a Kolmogorov-Arnold network: cubic B-splines on a fixed grid, for each edge."""

    def __init__(self, inputs: int, outputs: int, cells: int = 4, degree: int = 3) -> None:
        super().__init__()
        self.degree = degree
        width = 4.0 / cells
        self.register_buffer("grid", torch.arange(-degree, cells + degree + 1) * width - 2)
        self.weight = nn.Parameter(0.3 * torch.randn(outputs, inputs, cells + degree))
        self.base = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        grid, y = self.grid, x.unsqueeze(-1)
        splines = ((y >= grid[:-1]) & (y < grid[1:])).to(x.dtype)
        for k in range(1, self.degree + 1):
            left = (y - grid[: -(k + 1)]) / (grid[k:-1] - grid[: -(k + 1)]) * splines[..., :-1]
            right = (grid[k + 1 :] - y) / (grid[k + 1 :] - grid[1:-k]) * splines[..., 1:]
            splines = left + right
        return self.base(functional.silu(x)) + torch.einsum("bik,oik->bo", splines, self.weight)


class KolmogorovArnold(nn.Module):
    """Two layers of splines."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = SplineLayer(4, 6), SplineLayer(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class StableForms(nn.Module):
    """Functions that overflow or lose digits in their plain forms."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.layer(x)
        return {
            "log_sigmoid": functional.logsigmoid(x),
            "softplus": functional.softplus(x, beta=2.0),
            "logaddexp": torch.logaddexp(x[:, :4], x[:, 4:]),
            "mish": functional.mish(x),
            "gelu": functional.gelu(x),
            "celu": functional.celu(x, alpha=0.5),
            "asinh": torch.asinh(x),
        }


class RunningNormalization(nn.Module):
    """Observations normalised by a training's statistics in float64, clipped, with a mask for missing ones."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(6, dtype=torch.float64))
        self.register_buffer("variance", torch.rand(6, dtype=torch.float64) + 0.1)
        self.body = mlp(6, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = ((x - self.mean) * torch.rsqrt(self.variance + 1e-8)).clamp(-10, 10).float()
        return self.body(torch.nan_to_num(x))


NETWORKS = (
    Network("spectral and weight norm", SpectralNorm, normal(6)),
    Network("int8 weights with scales", Int8Weights, normal(6)),
    Network("dynamic int8", dynamic_int8, normal(6), refused="export the float module, before it is quantized"),
    Network("bfloat16", BFloat16, normal(6)),
    Network("complex weights", ComplexWeights, normal(6)),
    Network("custom autograd function", CustomAutograd, normal(5)),
    Network("einops", WithEinops, normal(3, 8, 8), needs="einops"),
    Network("Fourier features", FourierFeatures, normal(5)),
    Network("Kolmogorov-Arnold splines", KolmogorovArnold, normal(4)),
    Network("stable forms", StableForms, normal(5)),
    Network("running normalisation", RunningNormalization, normal(6)),
)
