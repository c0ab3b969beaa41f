"""The command line: each command parses, calls one function of the same name, prints the result."""

import json
import logging
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from maskhone import __version__
from maskhone.errors import MaskhoneError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Give it a picture and a rough segmentation mask; it returns a better mask.",
)
weights_app = typer.Typer(no_args_is_help=True, help="List, show and import weights.")
app.add_typer(weights_app, name="weights")
diagnose_app = typer.Typer(no_args_is_help=True, help="Ask what training could gain.")
app.add_typer(diagnose_app, name="diagnose")

out = Console()
err = Console(stderr=True)


def main() -> None:
    """Runs the command line; one clear line instead of a traceback unless --debug is given."""
    is_debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    logging.basicConfig(format="%(message)s", level=logging.DEBUG if is_debug else logging.WARNING)
    try:
        app(args=arguments)
    except MaskhoneError as error:
        if is_debug:
            raise
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        out.print(__version__, highlight=False)
        raise typer.Exit


def _check_guard(word: str | None) -> str | None:
    """Refuses another word before the rest is read: `--guard` alone takes in what follows it."""
    from maskhone.ops.guard import check_guard

    return None if word is None else check_guard(word)


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of every command."""


@app.command()
def refine(
    images: Annotated[
        Path, typer.Argument(help="A picture, or a folder; for prn the scores themselves will do.")
    ],
    masks: Annotated[
        Path | None,
        typer.Argument(help="A mask, a folder of masks, a COCO json, or a Cityscapes folder."),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write: of the same form as MASKS.")
    ],
    method: Annotated[str, typer.Option(help="See: maskhone methods.")] = "bpr",
    weights: Annotated[
        str | None, typer.Option(help="A weight file or a bundled name (maskhone weights list).")
    ] = None,
    format: Annotated[
        str, typer.Option(help="auto, folder, coco, cityscapes or big: what MASKS is.")
    ] = "auto",
    logits: Annotated[
        bool, typer.Option(help="Float .npy and .npz hold logits: apply a sigmoid first.")
    ] = False,
    image_list: Annotated[
        Path | None, typer.Option(help="COCO json whose `images` name the files of image ids.")
    ] = None,
    guard: Annotated[
        str | None,
        typer.Option(
            metavar="off|safe|strict",
            callback=_check_guard,
            help="Keep the coarse mask, or what an edge filter makes of it, where the refined one "
            "is not trusted. Default: safe; off for prn and perimeterfit.",
        ),
    ] = None,
    band_px: Annotated[
        int,
        typer.Option(
            "--band",
            metavar="PX",
            help="Change nothing further than this from the outline; 0: no limit.",
        ),
    ] = 0,
    max_patches: Annotated[
        int | None,
        typer.Option(help="segrefiner-hr, -lite: at most this many full-size patches per object."),
    ] = None,
    binary: Annotated[bool, typer.Option(help="Cut probabilities at one half.")] = False,
    scores: Annotated[bool, typer.Option(help="Also keep the probabilities.")] = False,
    classes: Annotated[
        bool,
        typer.Option(
            help="Files of (K, H, W) scores: also write the highest class as a label map."
        ),
    ] = False,
    recompute_boxes: Annotated[
        bool, typer.Option(help="COCO: write bbox and area of the refined mask.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(help="Write image | coarse | refined | changes: a picture, or a folder."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page: every mask before and after, most changed first."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Patches per call of the network.")] = 32,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE of the method's configuration; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a stopped run.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done; write nothing.")] = False,
) -> None:
    """Refine masks: one picture, folders, COCO results or a Cityscapes folder."""
    from maskhone.pipelines.refine import refine_files

    with _progress("refining") as on_progress:
        done = refine_files(
            images,
            masks,
            output,
            method=method,
            weights=weights,
            format=format,
            logits=logits,
            image_list=image_list,
            guard=guard,  # type: ignore[arg-type]
            band_px=band_px,
            max_patches=max_patches,
            binary=binary,
            scores=scores,
            classes=classes,
            recompute_boxes=recompute_boxes,
            compare=compare,
            report=report,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            options=parse_options(options or []),
            resume=resume,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    for line in done.lines:
        out.print(escape(line), soft_wrap=True, highlight=False)
    _finish(done.problems)


@app.command()
def evaluate(
    prediction: Annotated[
        Path,
        typer.Argument(help="Folder of masks, or COCO results json; davis: or a weight file."),
    ],
    target: Annotated[Path, typer.Argument(help="Ground truth of the same form.")],
    format: Annotated[
        str, typer.Option(help="auto, folder, coco, cityscapes, big, voc, davis.")
    ] = "auto",
    coarse: Annotated[
        Path | None, typer.Option(help="The masks before refinement, scored beside.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Text file of ids, one a line: score only these.")
    ] = None,
    target_value: Annotated[
        int | None,
        typer.Option(help="The object is where the target has this number; 255 ignored."),
    ] = None,
    coco_images: Annotated[
        Path | None,
        typer.Option(help="COCO json: TARGET is LVIS, score COCO's categories on its images."),
    ] = None,
    per_mask: Annotated[Path | None, typer.Option(help="Write a CSV with a line per mask.")] = None,
    saliency: Annotated[
        bool,
        typer.Option(help="Score soft maps too: F-, E-, S-measure, MAE, IoU and F1 as in papers."),
    ] = False,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="SEQUENCE=CLASS",
            help="davis: what a video shows, a number or a name of VOC; repeatable.",
        ),
    ] = None,
    class_list: Annotated[
        Path | None,
        typer.Option("--classes", help="voc: text file of class names, one a line; else VOC's 20."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Score masks against ground truth."""
    from maskhone.pipelines.evaluate import evaluate_files

    with _progress("scoring") as on_progress:
        report = evaluate_files(
            prediction,
            target,
            format=format,
            coarse=coarse,
            ids=ids,
            target_value=target_value,
            coco_images=coco_images,
            per_mask=per_mask,
            saliency=saliency,
            classes=classes,
            class_list=class_list,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    else:
        out.print(_score_table(report.rows, is_tall=saliency))
    _finish(report.problems)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, see recipes/.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for checkpoints, weights.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE that replaces a line of the recipe; repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Check the recipe and the data only.")] = False,
) -> None:
    """Train a method, a base model or a pipeline (many GPUs: accelerate launch -m maskhone ...)."""
    from maskhone.pipelines.train import train_recipe

    with _progress("training") as on_progress:
        line = train_recipe(
            recipe,
            output,
            options=parse_options(options or []),
            resume=resume,
            dry_run=dry_run,
            on_progress=on_progress,
        )
    out.print(escape(line), soft_wrap=True, highlight=False)


@app.command("pseudo-labels")
def pseudo_labels(
    recipe: Annotated[Path, typer.Argument(help="A TOML file, see recipes/pseudo_labels*.toml.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder that gets a folder for each stage.")
    ],
    first: Annotated[
        str, typer.Option("--from", help="Take the stages before this one as they are.")
    ] = "",
    last: Annotated[str, typer.Option("--to", help="Stop after this stage.")] = "",
    only: Annotated[str, typer.Option(help="Do this stage alone.")] = "",
    options: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE that replaces a line of the recipe; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Check the recipe and the data only.")] = False,
) -> None:
    """Make masks out of image labels, stage by stage; a stopped run goes on when called again."""
    from maskhone.pipelines.pseudo_labels import run
    from maskhone.pipelines.train import read_recipe

    if only and (first or last):
        raise UsageError("--only is one stage, --from and --to are a run of them; give either")
    table = {**read_recipe(recipe), **parse_options(options or [])}
    with _progress("working") as on_progress:
        said = run(
            table,
            out_dir=output,
            first=only or first,
            last=only or last,
            dry_run=dry_run,
            on_progress=on_progress,
            on_stage=lambda name: err.print(f"doing {name}", highlight=False),
        )
    out.print(
        escape(said or f"{recipe}: the recipe and its data are in order"),
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def coarse(
    masks: Annotated[Path, typer.Argument(help="Folder of clean masks.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for coarse ones.")],
    fill_holes: Annotated[bool, typer.Option(help="Close the holes of each mask first.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed makes other masks.")] = 0,
    resume: Annotated[bool, typer.Option(help="Leave files alone that are there.")] = False,
) -> None:
    """Make coarse masks out of clean ones, to train on."""
    from maskhone.pipelines.coarse import make_coarse_files

    with _progress("making") as on_progress:
        problems = make_coarse_files(
            masks,
            output,
            fill_holes=fill_holes,
            seed=seed,
            resume=resume,
            on_progress=on_progress,
        )
    _finish(tuple(problems))


@app.command()
def methods() -> None:
    """List the methods: what there is, what each needs, when to use it."""
    from maskhone.methods.catalogue import METHODS

    table = Table("method", "what it does", "needs", "use when", box=None, pad_edge=False)
    for name, method in METHODS.items():
        table.add_row(name, method.summary, method.needs, method.use_when)
    out.print(table)


@weights_app.command("list")
def list_weights() -> None:
    """List the bundled weights and the published ones that can be imported."""
    from maskhone.engine.weights import list_bundled, read_header
    from maskhone.pipelines.weights import list_importable

    table = Table("name", "where", "licence", box=None, pad_edge=False)
    for name, path in list_bundled().items():
        table.add_row(name, "bundled", read_header(path).get("licence", ""))
    for name, command in list_importable().items():
        table.add_row(name, command, "the authors'")
    out.print(table)


@weights_app.command("show")
def show_weights(
    name: Annotated[str, typer.Argument(help="A bundled name or a weight file.")],
) -> None:
    """Print what a weight file says of itself: configuration, data, licence, scores."""
    from maskhone.engine.weights import find_weights, load_weights

    path = find_weights(name)
    state, header = load_weights(path)
    header["parameters"] = sum(v.numel() for k, v in state.items() if v.is_floating_point())
    header["bytes"] = path.stat().st_size
    typer.echo(json.dumps(header, indent=2))


@weights_app.command("import")
def import_weights(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' checkpoint file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Which configuration, when the file name does not tell.")
    ] = None,
) -> None:
    """Convert a published checkpoint once; nothing in it is executed."""
    from maskhone.pipelines.weights import import_weights

    out.print(f"wrote {escape(str(import_weights(checkpoint, output, name=name)))}")


@weights_app.command("average")
def average(
    files: Annotated[list[Path], typer.Argument(help="Two or more weight files of one kind.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the result.")] = None,
) -> None:
    """Average the weights of several stages of a training into one file."""
    from maskhone.engine.weights import average_weights

    out.print(f"wrote {escape(str(average_weights(files, output, name=name)))}")


@diagnose_app.command("thresholds")
def thresholds(
    scores: Annotated[Path, typer.Argument(help="Folder of probability maps.")],
    target: Annotated[Path, typer.Argument(help="Folder of truths of the same names.")],
    sides: Annotated[
        list[int] | None, typer.Option("--side", help="Side of the patches in px; repeatable.")
    ] = None,
    target_value: Annotated[
        int | None, typer.Option(help="The object is where the target has this number.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Text file of ids: use only these.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Write the pseudo-labels of the first side here.")
    ] = None,
    logits: Annotated[
        bool, typer.Option(help="Float .npy and .npz hold logits: apply a sigmoid first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure what the best threshold per image and per patch would give (can PRN help?)."""
    from maskhone.pipelines.diagnose import diagnose_thresholds

    with _progress("measuring") as on_progress:
        report = diagnose_thresholds(
            scores,
            target,
            **({"sides": sides} if sides else {}),
            target_value=target_value,
            ids=ids,
            labels=labels,
            logits=logits,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps({"rows": report.rows, "images": report.images}, indent=2))
    else:
        out.print(_score_table(report.rows))
    _finish(report.problems)


@diagnose_app.command("attention")
def attention(
    images: Annotated[Path, typer.Argument(help="Folder of pictures.")],
    labels: Annotated[Path, typer.Argument(help="Folder of label maps of the same names.")],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for heat maps, tables, weak slices.")
    ],
    network: Annotated[
        str,
        typer.Option(
            help="PACKAGE.MODULE:FACTORY of your own, which is called with num_classes; a "
            "RECIPE.toml; deeplabv3_resnet50, deeplabv3_resnet101, deeplabv3plus, dlinknet34, "
            "pfanet, resunetpp; or nothing: what WEIGHTS are of."
        ),
    ] = "",
    weights: Annotated[
        Path | None,
        typer.Option(help="A maskhone weight file, or a .pth of the network's tensors."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            help="A stage by its name in named_modules(), such as backbone.layer4; repeat it from "
            "the first to the last, which decides what is weak. Not needed for deeplabv3_*.",
        ),
    ] = None,
    num_classes: Annotated[
        int, typer.Option(help="Outputs of the network; 0: as the weights say, else 21.")
    ] = 0,
    ids: Annotated[Path | None, typer.Option(help="Text file of ids: use only these.")] = None,
    classes: Annotated[
        list[int] | None,
        typer.Option("--class", help="Ask about this label only; repeatable. Else about all."),
    ] = None,
    label_shift: Annotated[
        int, typer.Option(help="Added to every label but 255; 1 where 0 is a class.")
    ] = 0,
    picture_px: Annotated[
        int, typer.Option(help="Make the shorter side this small; 0 leaves pictures as they are.")
    ] = 0,
    heat_method: Annotated[
        str, typer.Option(help="gradcam, gradcam++, layercam, hirescam or xgradcam.")
    ] = "gradcam",
    heat_mask: Annotated[
        str,
        typer.Option(
            help="Which pixels are explained: pred, those predicted to be of the class; label, "
            "also of objects missed completely; or union."
        ),
    ] = "pred",
    slice_heat: Annotated[
        float, typer.Option(help="Above this heat a pixel counts as attended to.")
    ] = 0.0,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(help="slices.jsonl of an earlier diagnosis: what is weak again? Repeatable."),
    ] = None,
    most_pictures: Annotated[int, typer.Option(help="Of each kind to draw; 0: none.")] = 50,
    over: Annotated[str, typer.Option(help="Draw over the image, or over the label.")] = "image",
    colours: Annotated[
        str, typer.Option(help="natural: blue is nothing missing, red much; swapped as published.")
    ] = "natural",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
) -> None:
    """Show which stage of a segmentation network overlooks what (RWS).

    OUTPUT gets a folder of heat maps for each stage, of what it misses against the best one; a
    table (report.txt, report.json): `missing` is the mean of that over the class's label, `best`
    the share of its pixels where no stage attends more; and slices, windows of half the picture's
    size whose label the last stage covers badly.

    maskhone diagnose attention pictures/ labels/ -o out --weights deeplabv3.safetensors

    maskhone diagnose attention pictures/ labels/ -o out --network my.net:Net --weights net.pth
    --num-classes 3 --layer stage1 --layer stage2
    """
    from maskhone.pipelines.attention_report import to_text
    from maskhone.pipelines.diagnose_attention import diagnose_attention

    with _progress("looking") as on_progress:
        report = diagnose_attention(
            images,
            labels,
            output,
            network=network,
            weights=weights,
            layers=tuple(layers or ()),
            num_classes=num_classes,
            ids=ids,
            classes=tuple(classes or ()),
            label_shift=label_shift,
            picture_px=picture_px,
            heat_method=heat_method,
            heat_mask=heat_mask,
            slice_heat=slice_heat,
            earlier=tuple(earlier or ()),
            most_pictures=most_pictures,
            over=over,
            colours=colours,  # type: ignore[arg-type]
            device=device,
            on_progress=on_progress,
        )
    out.print(escape(to_text(report)), soft_wrap=True, highlight=False)
    _finish(report.problems)


def parse_options(texts: list[str]) -> dict[str, Any]:
    """Reads NAME=VALUE; a value is TOML, or plain text where it is not.

    Example:
        >>> parse_options(["nms_iou=0.55", "edge_rule=published"])
        {'nms_iou': 0.55, 'edge_rule': 'published'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"option {text!r}; expected NAME=VALUE, for instance nms_iou=0.55")
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar with rate and time left; it appears with the first report of progress."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.2f}/s" if task.speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=err, transient=True)
    tasks: list[Any] = []
    last = 0

    def on_progress(done: int, total: int) -> None:
        nonlocal last
        if not tasks and total > 1:
            bar.start()
            tasks.append(bar.add_task(what, total=total, completed=done - 1))
        for task in tasks:
            if done <= last:  # another stage, of which an earlier run may have done a part
                bar.reset(task, total=total, completed=done - 1)
            bar.update(task, completed=done, total=total)
        last = done

    is_stopped = False
    try:
        yield on_progress
    except KeyboardInterrupt:
        is_stopped = True
    finally:
        if tasks:
            bar.stop()
    if is_stopped:
        err.print("stopped; nothing half-written is left; go on with the same command, or --resume")
        raise typer.Exit(130)


def _score_table(rows: list[dict[str, Any]], *, is_tall: bool = False) -> Table:
    table = Table(box=None, pad_edge=False)
    if is_tall:  # scores below one another: they are too many for a line
        first, *names = dict.fromkeys(name for row in rows for name in row)
        rows = [{first: name, **{row[first]: row.get(name) for row in rows}} for name in names]
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(v if isinstance(v, str) else _number(v) for v in row.values()))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _finish(problems: tuple[str, ...]) -> None:
    """Lists what failed and exits with 1 when anything did."""
    for problem in problems:
        err.print(f"[red]failed:[/] {escape(problem)}", soft_wrap=True, highlight=False)
    if problems:
        err.print(f"{len(problems)} failed, the rest is done")
        raise typer.Exit(1)
