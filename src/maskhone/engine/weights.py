"""Weight files: safetensors whose header says what they are and whose hash says they are whole.

The header holds one JSON text under `maskhone`: name, method, config, licence, training recipe and
scores, and the sha256 of it all. Bundled files lie in `maskhone/weights/`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from maskhone.data.files import replace_when_done
from maskhone.errors import WeightsError

BUNDLED_DIR = Path(__file__).parent.parent / "weights"


def list_bundled() -> dict[str, Path]:
    """Lists the weights inside the package: name to file."""
    return {path.stem: path for path in sorted(BUNDLED_DIR.glob("*.safetensors"))}


def find_weights(name_or_path: str | Path) -> Path:
    """Resolves the name of bundled weights or the path of a file."""
    bundled = list_bundled()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise WeightsError(
        f"{name_or_path}: neither a weight file nor a bundled name; bundled: "
        f"{', '.join(bundled) or 'none'} (see: maskhone weights list)"
    )


def open_weights(
    name_or_path: str | Path, method: str
) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """Reads weights that must belong to a method: the file, its tensors and its header.

    Raises:
        WeightsError: missing, damaged, or weights of another method.
    """
    path = find_weights(name_or_path)
    state, header = load_weights(path)
    if header.get("method") != method:
        raise WeightsError(f"{path}: these are weights of {header.get('method')}, not of {method}")
    return path, state, header


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors as float32 (integers as they are) and the header; checks the hash.

    Raises:
        WeightsError: not a maskhone weight file, or its content does not match its hash.
    """
    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}
    if hash_content(state, header) != header.get("sha256"):
        raise WeightsError(f"{path}: the content does not match its hash; copy the file again")
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, header


def read_header(path: Path) -> dict[str, Any]:
    """Reads what a weight file says of itself, without its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("maskhone")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a safetensors file ({error}); published checkpoints (.pth) are read "
            f"with: maskhone weights import {path.name}"
        ) from error
    if text is None:
        raise WeightsError(
            f"{path}: a safetensors file that maskhone did not write; convert the original "
            "checkpoint with: maskhone weights import FILE"
        )
    try:
        header = json.loads(text)
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: the header is damaged; copy the file again") from error
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: the header is damaged; copy the file again")
    return header


def save_weights(
    path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any], *, half: bool = True
) -> Path:
    """Writes tensors with a header and their hash, whole or not at all.

    Args:
        path: the file to write.
        state: tensors by key.
        header: JSON-able facts; `sha256` is added.
        half: store floats as fp16. Values beyond fp16's range keep the tensor at fp32.
    """
    stored = {key: _compact(value.detach().cpu(), half=half) for key, value in state.items()}
    full = json.loads(json.dumps({**header, "sha256": hash_content(stored, header)}))
    with replace_when_done(path) as unfinished:
        metadata = {"maskhone": json.dumps(full, sort_keys=True)}
        unfinished.write_bytes(serialize(stored, metadata=metadata))
    return path


def average_weights(paths: Sequence[Path], out: Path, *, name: str | None = None) -> Path:
    """Averages the weights of stages of one training, or of trainings from one start.

    Stages that each forgot a little of what the others knew make one network that knows both.

    Args:
        paths: two or more files of one method, network and configuration.
        out: file to write; its header is the last one's, with `average_of` beside.
        name: what the result is called; None keeps the last one's name, or takes the file's.

    Raises:
        WeightsError: files that do not belong together.

    Source: Wortsman et al., "Model soups", ICML 2022 (uniform soup).
    Differs: running statistics of norms are averaged like weights, not measured anew.
    """
    if len(paths) < 2:
        raise WeightsError(f"an average wants two or more weight files, received {len(paths)}")
    states, headers = zip(*(load_weights(path) for path in paths), strict=True)
    for path, state, header in zip(paths[1:], states[1:], headers[1:], strict=True):
        shapes = [{key: value.shape for key, value in each.items()} for each in (states[0], state)]
        facts = [(each.get("method"), each.get("config")) for each in (headers[0], header)]
        if shapes[0] != shapes[1] or facts[0] != facts[1]:
            raise WeightsError(
                f"{path}: another method, network or configuration than {paths[0]}; "
                "only weights of the same kind can be averaged"
            )
    mean = {
        key: torch.stack([state[key] for state in states]).mean(dim=0)
        if value.is_floating_point()
        else value
        for key, value in states[-1].items()
    }
    header = {key: value for key, value in headers[-1].items() if key != "scores"}
    header["average_of"] = [
        f"{each.get('name', path.stem)} {each.get('sha256', '')[:8]}"
        for path, each in zip(paths, headers, strict=True)
    ]
    return save_weights(out, mean, {**header, "name": name or header.get("name", out.stem)})


def hash_content(state: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Computes one sha256 over the header and the names, types, shapes and values of all tensors.

    `sha256` itself, and `scores`, which are measured afterwards, are left out of the header.
    """
    facts = {k: v for k, v in header.items() if k not in ("sha256", "scores")}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key in sorted(state):
        value = state[key].contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _compact(value: Tensor, *, half: bool) -> Tensor:
    value = value.contiguous()
    if not (half and value.is_floating_point()):
        return value.clone()
    small = value.half()
    return small if bool(torch.isfinite(small).all()) else value.clone()
