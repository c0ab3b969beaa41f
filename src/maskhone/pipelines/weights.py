"""The authors' checkpoints, of refinement methods and of base models: converted once."""

from collections import Counter
from pathlib import Path

from maskhone.errors import UsageError
from maskhone.methods.catalogue import import_weights as import_refiner
from maskhone.methods.catalogue import list_published
from maskhone.segmenters.catalogue import (
    CLASS_SEGMENTERS,
    DEEPLABV3,
    RELEASED_DEEPLABV3,
    SEGMENTERS,
)

AFFINITY_NET = "affinitynet"
"""AffinityNet's checkpoints are imported by this name; their files go by names of all kinds."""


def import_weights(path: Path, out: Path | None = None, *, name: str | None = None) -> Path:
    """Converts an authors' checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the checkpoint; what it is is told by its name, or by `name`.
        out: file to write; by default `<name>.safetensors` beside the checkpoint.
        name: one of our names of published weights.

    Raises:
        UsageError: neither the file's name nor `name` is known, or the name fits several.
        WeightsError: damaged, not plain tensors, or weights of another network.
    """
    bases = {model.published: ours for ours, model in SEGMENTERS.items()}
    bases |= {model.published: ours for ours, model in CLASS_SEGMENTERS.items() if model.published}
    wanted = name or bases.get(path.name)
    if wanted in SEGMENTERS:
        from maskhone.pipelines.segmenters import import_segmenter

        return import_segmenter(path, out, name=wanted)
    if wanted in CLASS_SEGMENTERS:
        from maskhone.pipelines.segmenters import import_class_model

        return import_class_model(path, out, name=wanted)
    if wanted == AFFINITY_NET:
        from maskhone.methods.perimeterfit.convert import import_checkpoint

        return import_checkpoint(path, out)
    if wanted in DEEPLABV3 or path.name in RELEASED_DEEPLABV3:
        from maskhone.pipelines.deeplabv3 import import_deeplabv3

        return import_deeplabv3(path, out, name=wanted)
    refiners = list_published()
    is_known = path.name in {Path(file).name for file in refiners}
    known = [*refiners.values(), *SEGMENTERS, *CLASS_SEGMENTERS, *DEEPLABV3, AFFINITY_NET]
    if wanted not in refiners.values() and (name or not is_known):
        raise UsageError(
            f"{name or path.name}: not one of the released files or names; say what it is with "
            f"--name: {', '.join(known)}"
        )
    return import_refiner(path, out, name=name)


def list_importable() -> dict[str, str]:
    """Lists our names of published weights, and the command that converts each.

    Example:
        >>> list_importable()["pfanet"].split()[:3]
        ['maskhone', 'weights', 'import']
    """
    files = {ours: file for file, ours in list_published().items()}
    files |= {ours: model.published for ours, model in SEGMENTERS.items()}
    files |= {ours: m.published or "FILE.pth" for ours, m in CLASS_SEGMENTERS.items()}
    files |= {ours: file for file, ours in RELEASED_DEEPLABV3.items()}
    files[AFFINITY_NET] = "FILE.pth"
    count = Counter(Path(file).name for file in files.values())
    return {
        name: f"maskhone weights import {file}"
        + (f" --name {name}" if count[Path(file).name] > 1 or file == "FILE.pth" else "")
        for name, file in files.items()
    }
