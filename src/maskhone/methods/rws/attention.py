"""Seg-Grad-CAM and its sisters: where each stage of a network looks when it names a class.

L layers, C channels, h, w a layer's grid, H, W the picture. Source: RWS section 3; Vinogradova et
al., "Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation Mapping",
AAAI 2020; the sisters' formulas are those of their papers.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from maskhone.errors import UsageError

Heat = NDArray[np.float32]
"""`(L, H, W)`, or `(H, W)` of one layer, in [0, 1]."""

_TINY = 1e-7
_SMOOTH_SCALES = (0.9, 1.0, 1.1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """One picture after its way through a network, ready to be asked about its classes.

    Attributes:
        logits_CHW: at the picture's size, still tied to `outputs`.
        outputs: `(1, C, h, w)` of each named layer.
    """

    logits_CHW: Tensor
    outputs: tuple[Tensor, ...]

    @property
    def prediction(self) -> NDArray[np.int64]:
        """The likeliest class of each pixel, `(H, W)`."""
        found: NDArray[np.int64] = self.logits_CHW.detach().argmax(dim=0).cpu().numpy()
        return found

    @property
    def features(self) -> tuple[Tensor, ...]:
        """The layers' outputs `(C, h, w)` alone."""
        return tuple(output[0].detach() for output in self.outputs)


def find_heat_maps(
    network: nn.Module,
    inputs_13HW: Tensor,
    layers: Sequence[str],
    class_index: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    method: str = "gradcam",
) -> Heat:
    """Finds where each layer attends to a class.

    Args:
        network: any segmenter; it is put into eval mode for the while.
        inputs_13HW: one prepared picture.
        layers: names of modules whose outputs are `(1, C, h, w)`, as in `named_modules()`.
        class_index: channel of the logits.
        mask: `(H, W)`, the pixels asked about; None takes those predicted to be of the class.
        method: a key of `WEIGHINGS`.

    Returns:
        `(L, H, W)` in [0, 1]; zeros where the mask is empty or nothing speaks for the class.

    Raises:
        UsageError: unknown layer, method or class; a layer whose output is no map.
    """
    seen = observe(network, inputs_13HW, layers)
    return explain(seen, class_index, mask=mask, method=method)


def observe(network: nn.Module, inputs_13HW: Tensor, layers: Sequence[str]) -> Observation:
    """Sends one picture through a network in eval mode and keeps what is needed to explain it.

    Every hook is gone afterwards, whatever happens, and the network is in the mode it was in.
    """
    with eval_mode(network), torch.enable_grad(), tap_layers(network, layers) as found:
        logits = pick_logits(network(inputs_13HW.detach().requires_grad_()))
    return Observation(
        logits_CHW=_fit_logits(logits, inputs_13HW)[0],
        outputs=tuple(found[name] for name in layers),
    )


def look(
    network: nn.Module, inputs_13HW: Tensor, layers: Sequence[str]
) -> tuple[tuple[Tensor, ...], NDArray[np.int64]]:
    """Returns each layer's features `(C, h, w)` and the prediction `(H, W)`, without gradients."""
    with eval_mode(network), torch.no_grad(), tap_layers(network, layers) as found:
        logits = pick_logits(network(inputs_13HW))
    prediction = _fit_logits(logits, inputs_13HW)[0].argmax(dim=0).cpu().numpy()
    return tuple(found[name][0] for name in layers), prediction


def explain(
    seen: Observation,
    class_index: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    method: str = "gradcam",
    averages: bool = False,
) -> Heat:
    """Finds heat maps of one class; all layers come from one backward pass.

    Args:
        seen: from `observe`; it can be asked again.
        class_index: channel of the logits.
        mask: `(H, W)`, the pixels asked about; None takes those predicted to be of the class.
        method: a key of `WEIGHINGS`.
        averages: one map `(1, H, W)` for all layers together: the mean of theirs.

    Source: RWS section 3, steps 2 to 6.
    """
    size_hw = tuple(seen.logits_CHW.shape[-2:])
    maps = [
        resize_heat(scale_to_unit(np.maximum(raw, 0)), size_hw)
        for raw in find_raw_maps(seen, class_index, mask=mask, method=method)
    ]
    if averages:
        maps = [np.mean(maps, axis=0)]
    return np.stack([scale_to_unit(one) for one in maps]).astype(np.float32)


def find_raw_maps(
    seen: Observation,
    class_index: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    method: str = "gradcam",
) -> list[NDArray[np.float32]]:
    """Weighs each layer's channels and sums them up: `(h, w)` of any sign for each layer."""
    if method not in WEIGHINGS:
        raise UsageError(f"heat map method is {method!r}; expected {', '.join(WEIGHINGS)}")
    gradients = find_gradients(seen, class_index, mask=mask)
    raws = []
    for output, gradient in zip(seen.outputs, gradients, strict=True):
        raw = WEIGHINGS[method](output.detach()[0].float(), gradient[0].float())
        raws.append(raw.cpu().numpy().astype(np.float32))
    return raws


def find_gradients(
    seen: Observation, class_index: int, *, mask: NDArray[np.bool_] | None = None
) -> tuple[Tensor, ...]:
    """Derives the sum of a class's logits over a mask by every layer's output, in one pass.

    Raises:
        UsageError: no such class, a mask of another size, or a layer that the logits do not need.
    """
    logits = seen.logits_CHW
    if not 0 <= class_index < len(logits):
        raise UsageError(f"class {class_index} asked for, but the network has {len(logits)}")
    inside = seen.prediction == class_index if mask is None else np.asarray(mask, dtype=np.bool_)
    if inside.shape != tuple(logits.shape[-2:]):
        raise UsageError(f"the mask is {inside.shape}, the picture {tuple(logits.shape[-2:])}")
    if not inside.any():
        return tuple(torch.zeros_like(output) for output in seen.outputs)
    weight = torch.from_numpy(inside).to(logits.device, logits.dtype)
    score = (logits[class_index] * weight).sum()
    found = torch.autograd.grad(score, seen.outputs, retain_graph=True, allow_unused=True)
    if any(gradient is None for gradient in found):
        raise UsageError("the logits do not depend on one of the layers; name layers before them")
    return found


def find_smooth_heat_map(
    network: nn.Module,
    inputs_13HW: Tensor,
    layer: str,
    class_index: int,
    *,
    mask: NDArray[np.bool_] | None = None,
    method: str = "gradcam",
    flips_mask: bool = True,
) -> Heat:
    """Averages the heat `(H, W)` of six changed pictures: mirrored or not, in three contrasts.

    Args:
        network: as for `find_heat_maps`.
        inputs_13HW: one prepared picture.
        layer: name of a module.
        class_index: channel of the logits.
        mask: `(H, W)`; None takes the pixels predicted on the unchanged picture.
        method: a key of `WEIGHINGS`.
        flips_mask: mirror the mask with the picture.
            Differs: the grad-cam package leaves the mask as it is.
    """
    if mask is None:
        mask = look(network, inputs_13HW, [layer])[1] == class_index
    found = []
    for is_mirrored in (False, True):
        for scale in _SMOOTH_SCALES:
            changed = (inputs_13HW.flip(-1) if is_mirrored else inputs_13HW) * scale
            asked = mask[:, ::-1].copy() if is_mirrored and flips_mask else mask
            heat = find_heat_maps(network, changed, [layer], class_index, mask=asked, method=method)
            found.append(heat[0, :, ::-1] if is_mirrored else heat[0])
    return np.asarray(np.mean(found, axis=0), dtype=np.float32)


def scale_to_unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretches values to [0, 1]; a constant becomes 0.

    Example:
        >>> scale_to_unit(np.array([[2.0, 4.0]], dtype=np.float32)).round(3).tolist()
        [[0.0, 1.0]]
    """
    lifted = values - values.min()
    scaled: NDArray[np.float32] = lifted / (np.float32(_TINY) + lifted.max())
    return scaled


def resize_heat(heat: NDArray[np.float32], size_hw: Sequence[int]) -> NDArray[np.float32]:
    """Resizes `(h, w)` bilinearly from pixel centre to pixel centre, as OpenCV does."""
    sized = cv2.resize(heat, tuple(size_hw)[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(sized, dtype=np.float32)


def keep_inside(heat: Heat, is_class: NDArray[np.bool_]) -> Heat:
    """Returns heat maps that are 0 outside a class's label `(H, W)`.

    Source: RWS section 3, step 7.
    """
    return np.where(is_class, heat, np.float32(0))


def find_missing_weights(heat: Heat) -> Heat:
    """Returns what each layer lacks against the best one: omega, `(L, H, W)`, 0 or more.

    Source: RWS section 3, step 8.

    Example:
        >>> heat = np.array([[[0.25]], [[1.0]]], dtype=np.float32)
        >>> find_missing_weights(heat).ravel().tolist()
        [0.75, 0.0]
    """
    missing: Heat = heat.max(axis=0) - heat
    return missing


def find_layers(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Looks up modules by name.

    Raises:
        UsageError: no names, one twice, or one that the network does not have; the nearest are
            listed.
    """
    known = {name: module for name, module in network.named_modules() if name}
    if not names or len(set(names)) != len(names):
        raise UsageError(f"layers are {list(names)}; expected one or more, each once")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            tops = [n for n, _ in network.named_children()]
            hint = f"nearest: {', '.join(near)}" if near else f"it has: {', '.join(tops)}"
            raise UsageError(f"the network has no layer {name!r}; {hint}")
    return {name: known[name] for name in names}


@contextmanager
def tap_layers(
    network: nn.Module,
    layers: Sequence[str],
    *,
    replace: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Listens to layers while the block runs: yields what they put out last, by name.

    What follows a layer gets a copy, so that a later in-place change does not reach the record.

    Args:
        network: any module.
        layers: names of modules with outputs `(B, C, h, w)`.
        replace: by name, what makes of an output the one to go on with; the record holds that.

    Raises:
        UsageError: an unknown layer, or one whose output is no map.
    """
    found: dict[str, Tensor] = {}
    modules = find_layers(network, layers)

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(_: nn.Module, __: Any, output: Any) -> Tensor:
            output = _check_map(name, output)
            if replace is not None and name in replace:
                output = replace[name](output)
            found[name] = output
            copy: Tensor = output.clone()
            return copy

        return hook

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(make_hook(name)))
        yield found
        silent = [name for name in layers if name not in found]
        if silent:
            raise UsageError(f"the network did not use its layer {silent[0]!r}; name another one")
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Puts a network into eval mode and each of its modules back into its own mode."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def pick_logits(output: Any) -> Tensor:
    """Finds the logits `(B, C, h, w)` in what a segmenter returns.

    That is the tensor itself, the `out` of a dict, or the first of a list. A single channel is the
    logit of class 1 against a background of 0.

    Raises:
        UsageError: something else.
    """
    if isinstance(output, Mapping):
        output = output.get("out")
    elif isinstance(output, (list, tuple)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 4:
        said = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"the network returns {said}; expected logits (B, C, H, W), a dict with them as 'out', "
            "or a list that begins with them"
        )
    return output if output.shape[1] > 1 else torch.cat([torch.zeros_like(output), output], dim=1)


def _fit_logits(logits: Tensor, inputs: Tensor) -> Tensor:
    if logits.shape[-2:] != inputs.shape[-2:]:
        size = inputs.shape[-2:]
        logits = interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits


def _check_map(name: str, output: Any) -> Tensor:
    if isinstance(output, Tensor) and output.ndim == 4 and output.is_floating_point():
        return output
    said = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UsageError(
        f"the layer {name!r} puts out {said}, no map (B, C, h, w); name a convolutional stage"
    )


def weigh_gradcam(a_Chw: Tensor, g_Chw: Tensor) -> Tensor:
    """Weighs each channel by its mean gradient (Selvaraju et al., ICCV 2017)."""
    return torch.einsum("c,chw->hw", g_Chw.mean(dim=(1, 2)), a_Chw)


def weigh_gradcam_plus(a_Chw: Tensor, g_Chw: Tensor) -> Tensor:
    """Weighs each channel by its rising gradients (Chattopadhay et al., WACV 2018)."""
    below = 2 * g_Chw**2 + a_Chw.sum(dim=(1, 2), keepdim=True) * g_Chw**3 + 1e-6
    share = torch.where(g_Chw != 0, g_Chw**2 / below, 0.0)
    weights = (g_Chw.clamp(min=0) * share).sum(dim=(1, 2))
    return torch.einsum("c,chw->hw", weights, a_Chw)


def weigh_layercam(a_Chw: Tensor, g_Chw: Tensor) -> Tensor:
    """Weighs each value by its own rising gradient (Jiang et al., TIP 2021)."""
    return (g_Chw.clamp(min=0) * a_Chw).sum(dim=0)


def weigh_hirescam(a_Chw: Tensor, g_Chw: Tensor) -> Tensor:
    """Weighs each value by its own gradient (Draelos and Carin, 2020)."""
    return (g_Chw * a_Chw).sum(dim=0)


def weigh_xgradcam(a_Chw: Tensor, g_Chw: Tensor) -> Tensor:
    """Weighs each channel by its gradient where it is active (Fu et al., BMVC 2020)."""
    weights = (g_Chw * a_Chw).sum(dim=(1, 2)) / (a_Chw.sum(dim=(1, 2)) + _TINY)
    return torch.einsum("c,chw->hw", weights, a_Chw)


WEIGHINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": weigh_gradcam,
    "gradcam++": weigh_gradcam_plus,
    "layercam": weigh_layercam,
    "hirescam": weigh_hirescam,
    "xgradcam": weigh_xgradcam,
}
"""Ways to turn activations and gradients `(C, h, w)` into a map; the first one is RWS's."""
