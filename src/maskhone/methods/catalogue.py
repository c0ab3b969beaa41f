"""The list of refinement methods, and the one door through which they are loaded.

Method names, not classes, are the public face; a method's modules are imported when it is loaded,
so that listing them needs no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

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
        bundled: name of the weights used when none are named; empty when there are none.
        uses_weights: whether it has weights at all.
        published: the authors' files and our names for them.
        import_checkpoint: converts one of those files, or None.
        needs_picture: whether it looks at the picture, or at the scores alone.
        is_guarded: whether it mends outlines, which is what the guard judges; without, the guard
            is off.
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
    needs_picture: bool = True
    is_guarded: bool = True


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
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`. Classical methods run on the CPU.
        dtype: of the matrix products: `auto`, `fp32`, `bf16`, `fp16`.
        batch_size: patches per call of the network.
        options: fields of the method's configuration, for instance `nms_iou=0.55` for BPR.

    Returns:
        An object with `refine(image, masks) -> scores`.

    Raises:
        UsageError: unknown method, device, dtype or option.
        WeightsError: the weights are missing, damaged or of another method.

    Example:
        >>> list(METHODS)[:4]
        ['bpr', 'segrefiner-lr', 'segrefiner-hr', 'segrefiner-lite']
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    if batch_size < 1:
        raise UsageError(f"batch size is {batch_size}; expected 1 or more")
    method = METHODS[name]
    if weights is not None and not method.uses_weights:
        raise UsageError(f"{name} takes no weights, but was given {weights}; leave them out")
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
        UsageError: neither the file's name nor `name` is known, or the name fits several.
        WeightsError: damaged, not plain tensors, or weights of another network.
    """
    known = list_published()
    fitting = [ours for file, ours in known.items() if Path(file).name == path.name]
    if name is None and len(fitting) > 1:
        raise UsageError(
            f"{path}: several released files have this name; say which with --name: "
            f"{', '.join(fitting)}"
        )
    wanted = name or next(iter(fitting), None)
    for method in METHODS.values():
        if method.import_checkpoint is not None and wanted in method.published.values():
            return method.import_checkpoint(path, out, name=wanted)
    raise UsageError(
        f"{name or path.name}: not one of the released files ({', '.join(known)}); "
        f"say which with --name: {', '.join(known.values())}"
    )


def list_published() -> dict[str, str]:
    """Lists the authors' files that can be imported, and our names for them.

    Files of one name are told apart by the folder of the archive they come in.
    """
    return {file: name for method in METHODS.values() for file, name in method.published.items()}


def _load_bpr(
    *, weights: str | Path, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    from maskhone.engine.infer import choose_device, choose_dtype
    from maskhone.engine.weights import open_weights
    from maskhone.methods.bpr.config import BPRConfig
    from maskhone.methods.bpr.refine import BPRRefiner, build_network

    path, state, header = open_weights(weights, "bpr")
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
    *,
    weights: str | Path,
    device: str,
    dtype: str,
    batch_size: int,
    preset: str = "",
    **options: Any,
) -> Refiner:
    from maskhone.engine.infer import choose_device, choose_dtype, limit_batch
    from maskhone.engine.weights import open_weights
    from maskhone.methods.segrefiner.config import (
        CPU_BATCH_PX,
        PRESETS,
        SegRefinerConfig,
        check_have_effect,
    )
    from maskhone.methods.segrefiner.refine import SegRefiner, build_network

    path, state, header = open_weights(weights, "segrefiner")
    config = SegRefinerConfig(**header["config"])
    if preset and config.scope != PRESETS[preset].scope:  # weights fit both ways of looking
        way = PRESETS[preset]
        config = replace(config, scope=way.scope, picks_nearest=way.picks_nearest)
    config = _with_options(config, options)
    check_have_effect(config, options)
    chosen = choose_device(device)
    return SegRefiner(
        network=build_network(state, config, source=str(path)).to(chosen),
        config=config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        batch_size=limit_batch(batch_size, chosen, side_px=config.model_px, most_px=CPU_BATCH_PX),
    )


def _load_segrefiner_lr(**options: Any) -> Refiner:
    return _load_segrefiner(preset="segrefiner_lr", **options)


def _load_segrefiner_hr(**options: Any) -> Refiner:
    return _load_segrefiner(preset="segrefiner_hr", **options)


def _train_segrefiner(recipe: dict[str, Any], **run: Any) -> Path:
    from maskhone.methods.segrefiner.train import train

    return train(recipe, **run)


def _import_segrefiner(path: Path, out: Path | None, *, name: str) -> Path:
    from maskhone.methods.segrefiner.convert import import_checkpoint

    return import_checkpoint(path, out, name=name)


def _load_prn(
    *, weights: str | Path, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    from maskhone.engine.infer import choose_device, choose_dtype
    from maskhone.engine.weights import open_weights
    from maskhone.methods.prn.config import PRNConfig
    from maskhone.methods.prn.refine import PRNRefiner, build_network

    path, state, header = open_weights(weights, "prn")
    config = _with_options(PRNConfig(**header["config"]), options)
    chosen = choose_device(device)
    return PRNRefiner(
        network=build_network(state, config, source=str(path)).to(chosen),
        config=config,
        device=chosen,
        dtype=choose_dtype(dtype, chosen),
        batch_size=batch_size,
    )


def _train_prn(recipe: dict[str, Any], **run: Any) -> Path:
    from maskhone.methods.prn.train import train

    return train(recipe, **run)


def _import_prn(path: Path, out: Path | None, *, name: str) -> Path:
    from maskhone.methods.prn.convert import import_checkpoint

    return import_checkpoint(path, out, name=name)


def _load_perimeterfit(
    *, weights: None, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    """Sets the options and where to learn; it learns one picture at a time, in float32."""
    from maskhone.engine.infer import choose_device
    from maskhone.methods.perimeterfit.config import PerimeterFitConfig
    from maskhone.methods.perimeterfit.refine import PerimeterFitRefiner

    config = _with_options(PerimeterFitConfig(), options)
    return PerimeterFitRefiner(config=config, device=choose_device(device))


def _load_guided(**options: Any) -> Refiner:
    from maskhone.methods.classic.guided import GuidedRefiner

    return _load_weight_free(GuidedRefiner(), **options)


def _load_grabcut(**options: Any) -> Refiner:
    from maskhone.methods.classic.grabcut import GrabCutRefiner

    return _load_weight_free(GrabCutRefiner(), **options)


def _load_crf(**options: Any) -> Refiner:
    from maskhone.methods.classic.crf import CRFRefiner

    return _load_weight_free(CRFRefiner(), **options)


def _load_matting(**options: Any) -> Refiner:
    from maskhone.methods.classic.matting import MattingRefiner

    return _load_weight_free(MattingRefiner(), **options)


def _load_auto(
    *, weights: None, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    """Refuses what cannot work at once, though its methods are loaded when first needed."""
    from maskhone.engine.infer import choose_device, choose_dtype
    from maskhone.methods.auto.config import AutoConfig
    from maskhone.methods.auto.refine import AutoRefiner

    choose_dtype(dtype, choose_device(device))
    config: AutoConfig = _with_options(AutoConfig(), options)
    if "matting" in config.names:
        load("matting")  # its package may be missing
    return AutoRefiner(
        config=config,
        load=partial(load, device=device, dtype=dtype, batch_size=batch_size),
    )


def _load_weight_free(
    default: Any, *, weights: None, device: str, dtype: str, batch_size: int, **options: Any
) -> Refiner:
    """Sets the options; where and in what batches to compute means nothing here."""
    refiner: Refiner = _with_options(default, options)
    return refiner


def _with_options(config: Any, options: dict[str, Any]) -> Any:
    """Replaces fields of a configuration; refuses names it does not have."""
    unknown = sorted(set(options) - set(config.__dataclass_fields__))
    if unknown:
        raise UsageError(
            f"unknown option {', '.join(unknown)}; known: {', '.join(config.__dataclass_fields__)}"
        )
    kinds = get_type_hints(type(config))
    for name, value in options.items():
        _check_type(name, value, kinds[name])
    return replace(config, **options)


def _check_type(name: str, value: Any, expected: Any) -> None:
    if get_origin(expected) is Literal:
        return  # the configuration says which values it takes
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
        needs="bundled weights, or your own (maskhone train)",
        use_when="coarse masks with large errors, no GPU",
        load=_load_segrefiner,
        train=_train_segrefiner,
        bundled="segrefiner_lite_128.ccp-davis",
        uses_weights=True,
    ),
    "prn": Method(
        summary="PatchRefineNet: unlearns where your model's scores are too high or too low",
        needs="weights trained on your own model's scores, or published ones; no picture",
        use_when="soft scores of one model; maskhone diagnose thresholds shows a gain per patch",
        load=_load_prn,
        train=_train_prn,
        uses_weights=True,
        published={
            f"{folder}/p64_weights.th": f"prn_p64.{data}"
            for folder, data in (
                ("deepglobe_models", "deepglobe"),
                ("DUTS_models", "duts"),
                ("kvasir_models", "kvasir"),
            )
        },
        import_checkpoint=_import_prn,
        needs_picture=False,
        is_guarded=False,
    ),
    "perimeterfit": Method(
        summary="PerimeterFit: weighs scores by whether the picture's own segments agree",
        needs="nothing but scikit-image (the extra wsss); seconds per picture",
        use_when="soft maps such as class activation maps; masks of only 0 and 1 stay as they are",
        load=_load_perimeterfit,
        is_guarded=False,
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
    "matting": Method(
        summary="closed-form matting inside a band around the boundary",
        needs="nothing but PyMatting (the extra matting)",
        use_when="any kind of object, thin ones too, when the coarse mask is off by little",
        load=_load_matting,
    ),
    "auto": Method(
        summary="asks bpr, and where that is unsure crf and grabcut too; says what it chose",
        needs="bundled weights",
        use_when="you do not know which; --option seconds=5 limits the time per picture",
        load=_load_auto,
    ),
}
