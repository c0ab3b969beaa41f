"""maskhone: give it a picture and a rough segmentation mask; it returns a better mask."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskhone.contracts import Refiner, Sample, Segmenter
    from maskhone.errors import InputError, MaskhoneError, UsageError, WeightsError
    from maskhone.methods.catalogue import METHODS, load
    from maskhone.pipelines.arrays import refine

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "InputError",
    "MaskhoneError",
    "Refiner",
    "Sample",
    "Segmenter",
    "UsageError",
    "WeightsError",
    "load",
    "refine",
]

_HOMES = {
    "METHODS": "maskhone.methods.catalogue",
    "InputError": "maskhone.errors",
    "MaskhoneError": "maskhone.errors",
    "Refiner": "maskhone.contracts",
    "Sample": "maskhone.contracts",
    "Segmenter": "maskhone.contracts",
    "UsageError": "maskhone.errors",
    "WeightsError": "maskhone.errors",
    "load": "maskhone.methods.catalogue",
    "refine": "maskhone.pipelines.arrays",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import maskhone` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'maskhone' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
