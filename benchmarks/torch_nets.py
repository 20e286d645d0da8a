"""PyTorch's side of cpu_steps.py and gpu_vs_torch.py: the same nets, losses and update rules as models/<name> has."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    """models/lenet."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.f1, self.f2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x):
        x = F.max_pool2d(self.c1(x), 2)
        x = F.max_pool2d(self.c2(x), 2).flatten(1)
        return self.f2(F.relu(self.f1(x)))


class MnistCnn(nn.Module):
    """models/mnist_cnn."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5), nn.Conv2d(64, 128, 3)
        self.f1, self.f2 = nn.Linear(512, 128), nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.c1(x)), 2)
        x = F.max_pool2d(F.relu(self.c2(x)), 2)
        x = F.relu(self.c3(x)).flatten(1)
        return F.relu(self.f2(F.relu(self.f1(x))))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(channels, filters, 3, stride, 1), nn.BatchNorm2d(filters)
        self.c2, self.b2 = nn.Conv2d(filters, filters, 3, 1, 1), nn.BatchNorm2d(filters)
        self.side = nn.Identity() if stride == 1 else nn.Conv2d(channels, filters, 1, stride)

    def forward(self, x):
        y = F.relu(self.b1(self.c1(x)), inplace=True)
        return F.relu(self.side(x) + self.b2(self.c2(y)), inplace=True)


class ResNet18(nn.Sequential):
    """models/resnet18_fashion_mnist."""

    def __init__(self) -> None:
        widths = ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        blocks = [b for c, f, s in widths for b in (Block(c, f, s), Block(f, f, 1))]
        super().__init__(
            nn.Conv2d(1, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), *blocks,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
        )  # fmt: skip


class CaffeNet(nn.Sequential):
    """models/caffenet."""

    def __init__(self) -> None:
        def relu() -> nn.Module:
            return nn.ReLU(inplace=True)

        pool, norm = nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, 1e-4, 0.75)
        super().__init__(
            nn.Conv2d(3, 96, 11, 4), relu(), pool, norm,
            nn.Conv2d(96, 256, 5, 1, 2, groups=2), relu(), pool, norm,
            nn.Conv2d(256, 384, 3, 1, 1), relu(), nn.Conv2d(384, 384, 3, 1, 1, groups=2), relu(),
            nn.Conv2d(384, 256, 3, 1, 1, groups=2), relu(), pool, nn.Flatten(),
            nn.Linear(9216, 4096), relu(), nn.Dropout(0.5), nn.Linear(4096, 4096), relu(), nn.Dropout(0.5),
            nn.Linear(4096, 1000),
        )  # fmt: skip


class AlexNet(nn.Sequential):
    """models/alexnet: as CaffeNet, but normalised before it is pooled."""

    def __init__(self) -> None:
        def relu() -> nn.Module:
            return nn.ReLU(inplace=True)

        pool, norm = nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, 1e-4, 0.75)
        super().__init__(
            nn.Conv2d(3, 96, 11, 4), relu(), norm, pool,
            nn.Conv2d(96, 256, 5, 1, 2, groups=2), relu(), norm, pool,
            nn.Conv2d(256, 384, 3, 1, 1), relu(), nn.Conv2d(384, 384, 3, 1, 1, groups=2), relu(),
            nn.Conv2d(384, 256, 3, 1, 1, groups=2), relu(), pool, nn.Flatten(),
            nn.Linear(9216, 4096), relu(), nn.Dropout(0.5), nn.Linear(4096, 4096), relu(), nn.Dropout(0.5),
            nn.Linear(4096, 1000),
        )  # fmt: skip


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (the first with the stride) beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        out = 4 * width
        self.c1, self.b1 = nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.c2, self.b2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.c3, self.b3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        side = (nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if project else ()
        self.side = nn.Sequential(*side)

    def forward(self, x):
        y = F.relu(self.b1(self.c1(x)), inplace=True)
        y = F.relu(self.b2(self.c2(y)), inplace=True)
        return F.relu(self.side(x) + self.b3(self.c3(y)), inplace=True)


class ResNet50(nn.Sequential):
    """models/resnet50."""

    def __init__(self) -> None:
        blocks, channels = [], 64
        for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for i in range(count):
                blocks.append(Bottleneck(channels, width, 2 if i == 0 and width > 64 else 1, i == 0))
                channels = 4 * width
        super().__init__(
            nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
            *blocks, nn.AvgPool2d(7), nn.Flatten(), nn.Linear(2048, 1000),
        )  # fmt: skip


NETS = {
    "lenet": LeNet,
    "mnist_cnn": MnistCnn,
    "resnet18_fashion_mnist": ResNet18,
    "caffenet": CaffeNet,
    "alexnet": AlexNet,
    "resnet50": ResNet50,
}


def rule(name: str, parameters) -> torch.optim.Optimizer:
    """The update rule of models/<name>/solver.prototxt."""
    if name == "resnet50":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    if name == "mnist_cnn":
        return torch.optim.RMSprop(parameters, lr=0.003, alpha=0.99, weight_decay=1e-4)
    if name == "resnet18_fashion_mnist":
        return torch.optim.SGD(parameters, lr=0.05)
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def training_step(name: str, shape: tuple[int, ...], classes: int, layout: str, threads: int) -> Callable[[], object]:
    """A step on one fixed batch: forward, backward, update. ``layout``: NCHW or NHWC."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    order = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    model = NETS[name]().to(memory_format=order)
    x, y = torch.rand(shape).contiguous(memory_format=order), torch.randint(0, classes, shape[:1])
    optimizer = rule(name, model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step
