"""A segmenter of classes on DAVIS videos: does it find in each frame what the video shows?"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskhone.contracts import Segmenter
from maskhone.data.davis import Year, find_davis_sequences, load_davis_frame
from maskhone.data.images import write_image
from maskhone.errors import UsageError
from maskhone.metrics.video import SequenceScores


def evaluate_davis(
    segmenter: Segmenter,
    root: Path,
    classes: Mapping[str, int],
    *,
    objects: Mapping[str, tuple[int, ...]] | None = None,
    split: str = "val",
    year: Year = "2017",
    output: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores the pixels labelled with a sequence's class against its objects.

    Args:
        segmenter: gives `(C, H, W)` scores; the highest one labels a pixel.
        root: of DAVIS.
        classes: sequence to class index, as VOC's 6 for a bus; only these sequences are scored.
        objects: sequence to the numbers of its objects of that class; all where left out.
        split: `train`, `val` or `trainval`.
        year: whose list of sequences.
        output: folder to write the masks to, `SEQUENCE/00000.png` with 0 and 255.
        on_progress: called with finished and planned frames.

    Returns:
        `j` and `f`, means over sequences; `sequences`; and `frames`, a row for each.

    Raises:
        UsageError: no sequences, or a class that the segmenter does not have.
        InputError: a sequence or file is missing.

    Source: RWS section 7; its authors published pictures of such videos, but no scores.
    """
    if not classes:
        raise UsageError("no sequences to score; say which class each of them shows")
    sequences = find_davis_sequences(root, split, year=year, names=tuple(classes))
    total = sum(len(sequence.frames) for sequence in sequences)
    scores = SequenceScores()
    for sequence in sequences:
        index = classes[sequence.name]
        for frame in sequence.frames:
            chosen = (objects or {}).get(sequence.name, ())
            image, target = load_davis_frame(frame, objects=chosen)
            found = segmenter.segment(image)
            if not 0 <= index < len(found):
                raise UsageError(
                    f"{sequence.name}: class {index} asked for, but the segmenter has {len(found)}"
                )
            prediction = found.argmax(axis=0) == index
            scores.update(sequence.name, frame.number, prediction, target)
            if output is not None:
                path = output / sequence.name / f"{frame.number}.png"
                write_image(path, prediction.astype(np.uint8) * 255)
            if on_progress is not None:
                on_progress(len(scores.frames), total)
    return {**scores.compute(), "frames": scores.frames}
