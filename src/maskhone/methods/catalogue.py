"""The list of refinement methods, and the one door through which they are loaded.

Method names, not classes, are the public face; a method's modules are imported when it is loaded,
so that listing them needs no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskhone.contracts import Refiner
from maskhone.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of the catalogue.

    Attributes:
        summary: what it does, in a line.
        needs: what must be there: bundled weights, nothing, ...
        use_when: when to choose it.
        load: makes the refiner from weights, device, dtype, batch_size and the method's options.
        train: runs a recipe, or None for a method without training.
        bundled: name of the weights used when none are named; empty when there are none.
        uses_weights: whether it has weights at all.
        published: the authors' files and our names for them.
        import_checkpoint: converts one of those files, or None.
    """

    summary: str
    needs: str
    use_when: str
    load: Callable[..., Refiner]
    train: Callable[..., Path] | None = None
    bundled: str = ""
    uses_weights: bool = False
    published: Mapping[str, str] = field(default_factory=dict)
    import_checkpoint: Callable[..., Path] | None = None


def load(
    name: str = "bpr",
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 32,
    **options: Any,
) -> Refiner:
    """Loads a refinement method.

    Args:
        name: a key of `METHODS`, for instance `bpr`.
        weights: a maskhone weight file or the name of bundled weights; None takes the method's own.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Methods without weights run on the CPU.
        dtype: of the matrix products: `auto`, `fp32`, `bf16`, `fp16`.
        batch_size: patches per call of the network.
        options: fields of the method's configuration, for instance `nms_iou=0.55` for BPR.

    Returns:
        An object with `refine(image, masks) -> scores`.

    Raises:
        UsageError: unknown method, device, dtype or option.
        WeightsError: the weights are missing, damaged or of another method.

    Example:
        >>> sorted(METHODS)
        ['bpr', 'crf', 'grabcut', 'guided', 'segrefiner-hr', 'segrefiner-lite', 'segrefiner-lr']
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; expected 1 or more")
    method = METHODS[name]
    if weights is not None and not method.uses_weights:
        raise UsageError(f"{name} uses no weights, but was given {weights}; leave them out")
    if weights is None and method.uses_weights:
        weights = method.bundled
        if not weights:
            how = " ".join(f"(maskhone weights import {file})" for file in method.published)
            raise UsageError(
                f"{name} has no bundled weights; it needs {method.needs.split(';')[0]}; name the "
                f"file with --weights {how}".rstrip()
            )
    return method.load(
        weights=weights, device=device, dtype=dtype, batch_size=batch_size, **options
    )


def import_weights(path: Path, out: Path | None = None, *, name: str | None = None) -> Path:
    """Converts an authors' checkpoint to a maskhone weight file; returns its path.

    Args:
        path: the checkpoint; what it is is told by its name, or by `name`.
        out: file to write; by default `<name>.safetensors` beside the checkpoint.
        name: one of our names of published weights.

    Raises:
        UsageError: neither the file's name nor `name` is known.
        WeightsError: damaged, not plain tensors, or weights of another network.
    """
    known = list_published()
    wanted = name or known.get(path.name)
    for method in METHODS.values():
        if method.import_checkpoint is not None and wanted in method.published.values():
            return method.import_checkpoint(path, out, name=wanted)
    raise UsageError(
        f"{name or path.name}: not one of the released files ({', '.join(known)}); "
        f"say which with --name: {', '.join(known.values())}"
    )


def list_published() -> dict[str, str]:
    """Lists the authors' files that can be imported, and our names for them."""
    return {file: name for method in METHODS.values() for file, name in method.published.items()}


def _load_bpr(
    *, weights: str | Path, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    from maskhone.engine.infer import choose_device, choose_dtype
    from maskhone.methods.bpr.config import BPRConfig
    from maskhone.methods.bpr.refine import BPRRefiner, build_network

    path, state, header = _open_weights(weights, "bpr")
    config = _with_options(BPRConfig(**header["config"]), options)
    chosen = choose_device(device)
    return BPRRefiner(
        network=build_network(state, config, source=str(path)).to(chosen),
        config=config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        batch_size=batch_size,
    )


def _train_bpr(recipe: dict[str, Any], **run: Any) -> Path:
    from maskhone.methods.bpr.train import train

    return train(recipe, **run)


def _import_bpr(path: Path, out: Path | None, *, name: str) -> Path:
    from maskhone.methods.bpr.convert import import_checkpoint

    return import_checkpoint(path, out, name=name)


def _load_segrefiner(
    *, weights: str | Path, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    from maskhone.engine.infer import choose_device, choose_dtype
    from maskhone.methods.segrefiner.config import SegRefinerConfig
    from maskhone.methods.segrefiner.refine import SegRefiner, build_network

    path, state, header = _open_weights(weights, "segrefiner")
    config = _with_options(SegRefinerConfig(**header["config"]), options)
    chosen = choose_device(device)
    return SegRefiner(
        network=build_network(state, config, source=str(path)).to(chosen),
        config=config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        batch_size=batch_size,
    )


def _load_segrefiner_lr(**options: Any) -> Refiner:
    return _load_segrefiner(**{"scope": "objects", **options})


def _load_segrefiner_hr(**options: Any) -> Refiner:
    return _load_segrefiner(**{"scope": "picture", **options})


def _train_segrefiner(recipe: dict[str, Any], **run: Any) -> Path:
    from maskhone.methods.segrefiner.train import train

    return train(recipe, **run)


def _import_segrefiner(path: Path, out: Path | None, *, name: str) -> Path:
    from maskhone.methods.segrefiner.convert import import_checkpoint

    return import_checkpoint(path, out, name=name)


def _load_guided(**options: Any) -> Refiner:
    from maskhone.methods.classic.guided import GuidedRefiner

    return _load_weight_free(GuidedRefiner(), **options)


def _load_grabcut(**options: Any) -> Refiner:
    from maskhone.methods.classic.grabcut import GrabCutRefiner

    return _load_weight_free(GrabCutRefiner(), **options)


def _load_crf(**options: Any) -> Refiner:
    from maskhone.methods.classic.crf import CRFRefiner

    return _load_weight_free(CRFRefiner(), **options)


def _load_weight_free(
    default: Any, *, weights: None, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    """Sets the options; where and in what batches to compute means nothing here."""
    refiner: Refiner = _with_options(default, options)
    return refiner


def _open_weights(
    weights: str | Path, method: str
) -> tuple[Path, dict[str, "Tensor"], dict[str, Any]]:
    """Reads a weight file that must belong to a method."""
    from maskhone.engine.weights import find_weights, load_weights

    path = find_weights(weights)
    state, header = load_weights(path)
    if header.get("method") != method:
        raise WeightsError(f"{path}: these are weights of {header.get('method')}, not of {method}")
    return path, state, header


def _with_options(config: Any, options: dict[str, Any]) -> Any:
    """Replaces fields of a configuration; refuses names it does not have."""
    unknown = sorted(set(options) - set(config.__dataclass_fields__))
    if unknown:
        raise UsageError(
            f"unknown option {', '.join(unknown)}; known: {', '.join(config.__dataclass_fields__)}"
        )
    for name, value in options.items():
        _check_type(name, value, type(getattr(config, name)))
    return replace(config, **options)


def _check_type(name: str, value: Any, expected: type) -> None:
    is_number = expected is float and isinstance(value, int | float)
    is_bool_mix_up = isinstance(value, bool) != (expected is bool)
    if is_bool_mix_up or not (is_number or isinstance(value, expected)):
        raise UsageError(f"option {name} is {value!r}; expected {expected.__name__}")


METHODS: dict[str, Method] = {
    "bpr": Method(
        summary="Boundary Patch Refinement: a small network redraws patches along the boundary",
        needs="bundled weights, or published ones (maskhone weights import)",
        use_when="the default; objects with a clear outline, masks from any source",
        load=_load_bpr,
        train=_train_bpr,
        bundled="bpr_hrnet18s_128.ccp-davis",
        uses_weights=True,
        published={
            "hrnet48_256-cbf4922c.pth": "bpr_hrnet48_256.cityscapes",
            "hrnet18s_128-24055c80.pth": "bpr_hrnet18s_128.cityscapes",
            "hrnet18s_coco-c172955f.pth": "bpr_hrnet18s_128.coco",
        },
        import_checkpoint=_import_bpr,
    ),
    "segrefiner-lr": Method(
        summary="SegRefiner: discrete diffusion over each object, seen at 256 px",
        needs="the authors' weights; a GPU, or patience",
        use_when="instances, also with large errors",
        load=_load_segrefiner_lr,
        train=_train_segrefiner,
        uses_weights=True,
        published={"segrefiner_lr_latest.pth": "segrefiner_lr"},
        import_checkpoint=_import_segrefiner,
    ),
    "segrefiner-hr": Method(
        summary="SegRefiner: the whole picture first, then uncertain parts at full size",
        needs="the authors' weights; a GPU, or patience",
        use_when="one main object in a large picture, fine detail",
        load=_load_segrefiner_hr,
        train=_train_segrefiner,
        uses_weights=True,
        published={"segrefiner_hr_latest.pth": "segrefiner_hr"},
        import_checkpoint=_import_segrefiner,
    ),
    "segrefiner-lite": Method(
        summary="SegRefiner with a U-Net small enough for a CPU: the object first, then patches",
        needs="weights trained with recipes/segrefiner_lite_128.ccp-davis.toml",
        use_when="coarse masks with large errors, no GPU",
        load=_load_segrefiner,
        train=_train_segrefiner,
        uses_weights=True,
    ),
    "guided": Method(
        summary="guided filter: snaps a soft mask to the edges of the picture",
        needs="nothing",
        use_when="a fast touch-up of soft masks that are already close",
        load=_load_guided,
    ),
    "grabcut": Method(
        summary="GrabCut inside a band around the boundary",
        needs="nothing",
        use_when="object and background differ in colour",
        load=_load_grabcut,
    ),
    "crf": Method(
        summary="fully connected CRF on colour and position",
        needs="nothing",
        use_when="soft scores of a low-resolution network",
        load=_load_crf,
    ),
}
