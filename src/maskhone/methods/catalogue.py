"""The list of refinement methods, and the one door through which they are loaded.

Method names, not classes, are the public face; a method's modules are imported when it is loaded,
so that listing them needs no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskhone.contracts import Refiner
from maskhone.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Method:
    """One entry of the catalogue.

    Attributes:
        summary: what it does, in a line.
        needs: what must be there: bundled weights, nothing, ...
        use_when: when to choose it.
        load: makes the refiner from weights, device, dtype, batch_size and the method's options.
        train: runs a recipe, or None for a method without training.
        bundled: name of the weights used when none are named; empty for a method without weights.
    """

    summary: str
    needs: str
    use_when: str
    load: Callable[..., Refiner]
    train: Callable[..., Path] | None = None
    bundled: str = ""


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
        ['bpr', 'crf', 'grabcut', 'guided']
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; expected 1 or more")
    return METHODS[name].load(
        weights=weights, device=device, dtype=dtype, batch_size=batch_size, **options
    )


def _load_bpr(
    *, weights: str | Path | None, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    from maskhone.engine.infer import choose_device, choose_dtype
    from maskhone.engine.weights import find_weights, load_weights
    from maskhone.methods.bpr.config import BPRConfig
    from maskhone.methods.bpr.refine import BPRRefiner, build_network

    path = find_weights(weights or METHODS["bpr"].bundled)
    state, header = load_weights(path)
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


def _load_guided(*, weights: str | Path | None, **options: Any) -> Refiner:
    from maskhone.methods.classic.guided import GuidedRefiner

    return _load_weight_free(GuidedRefiner(), weights, options)


def _load_grabcut(*, weights: str | Path | None, **options: Any) -> Refiner:
    from maskhone.methods.classic.grabcut import GrabCutRefiner

    return _load_weight_free(GrabCutRefiner(), weights, options)


def _load_crf(*, weights: str | Path | None, **options: Any) -> Refiner:
    from maskhone.methods.classic.crf import CRFRefiner

    return _load_weight_free(CRFRefiner(), weights, options)


def _load_weight_free(default: Any, weights: str | Path | None, options: dict[str, Any]) -> Refiner:
    if weights is not None:
        raise UsageError(f"this method uses no weights, but was given {weights}; leave them out")
    own = {k: v for k, v in options.items() if k not in ("device", "dtype", "batch_size")}
    refiner: Refiner = _with_options(default, own)
    return refiner


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
