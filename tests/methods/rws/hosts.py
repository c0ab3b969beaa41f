"""Small networks for tests, made in the way that users' own are."""

import torch
from torch import nn
from torch.nn.functional import interpolate


class TinyHost(nn.Module):
    """Three stages of strides 2, 4 and 4; logits come out small."""

    def __init__(self, num_classes):
        super().__init__()
        self.one = self.make(3, 8, 2)
        self.two = self.make(8, 12, 2)
        self.three = self.make(12, 12, 1)
        self.head = nn.Conv2d(12, num_classes, 1)

    @staticmethod
    def make(given, width, stride):
        return nn.Sequential(
            nn.Conv2d(given, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.head(self.three(self.two(self.one(x))))


class DictHost(TinyHost):
    """Gives a dict, with a second head, as torchvision's networks do."""

    def forward(self, x):
        logits = interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear")
        return {"out": logits, "aux": logits}


class PooledHost(TinyHost):
    """Normalises the mean of each channel, as DeepLabv3's pyramid does: one picture is too few."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(12))

    def forward(self, x):
        y = self.three(self.two(self.one(x)))
        return self.head(y + self.pooled(y))


class FlatHost(nn.Module):
    """A stage that makes no map."""

    def __init__(self, num_classes):
        super().__init__()
        self.flat = nn.Flatten()
        self.unused = nn.Conv2d(3, 3, 1)
        self.conv = nn.Conv2d(3, num_classes, 1)

    def forward(self, x):
        self.flat(x)
        return self.conv(x)


LAYERS = ("one", "two", "three")


def make_tiny(num_classes):
    return TinyHost(num_classes)


def make_blind(num_classes):
    """Predicts the background whatever it sees."""
    network = TinyHost(num_classes)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias[0] = 100
    return network


def make_pooled(num_classes):
    return PooledHost(num_classes)


def make_without_classes():
    return TinyHost(2)


def make_number(num_classes):
    return num_classes


def make_seeded(kind=TinyHost, num_classes=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(num_classes)
