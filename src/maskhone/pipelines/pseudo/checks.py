"""Looks for what would fail later, before anything is done."""

from collections.abc import Sequence
from importlib.util import find_spec

from maskhone.data.tagged_images import check_truth_sizes
from maskhone.engine.infer import choose_device, choose_dtype
from maskhone.engine.weights import find_weights, read_header
from maskhone.errors import InputError, MissingExtraError, UsageError, WeightsError
from maskhone.ops.superpixels import check_installed
from maskhone.pipelines.pseudo.plan import Job
from maskhone.pipelines.pseudo.trainings import TRAININGS


def check_job(job: Job, stages: Sequence[str]) -> list[str]:
    """Looks at pictures, lists, given weights, extras, and the recipes of the trainings.

    Args:
        job: what is asked for.
        stages: names of those that are to be done.

    Returns:
        What the trainings would say at their start, see `Training`.

    Raises:
        UsageError: lines that contradict each other, or a device that is not there.
        InputError: pictures or lists are missing, or cannot be used.
        WeightsError: given weights are missing, or those of another network.
        MissingExtraError: a package is not installed that a stage needs.
    """
    plan = job.plan
    choose_dtype(plan.dtype, choose_device(plan.device))
    if "segments" in stages:
        check_installed()
    if not job.items:
        raise InputError(f"{job.data.images}: no pictures; check images and train_list")
    both = {item.id for item in job.items} & {item.id for item in job.test_items}
    if both:
        raise UsageError(
            f"{min(both)} is in train_list and in test_list ({len(both)} such); keep it in one"
        )
    if plan.classifier:
        _check_method("classifier", plan.classifier, "classifier")
        check_classes(job)
    if plan.affinity_net:
        _check_method("affinity_net", plan.affinity_net, "affinitynet")
    trained = [name for name in TRAININGS if name in stages]
    if trained and find_spec("accelerate") is None:
        raise MissingExtraError("accelerate", extra="train")
    return [doubt for name in trained for doubt in _check_training(job, name)]


def check_pictures(job: Job) -> None:
    """Looks into the files of all pictures that have a truth: sizes must be the same.

    Raises:
        InputError: they are not, or a file cannot be read.
    """
    check_truth_sizes([*job.items, *job.test_items])


def check_classes(job: Job) -> None:
    """Refuses a given classifier that knows other classes.

    Raises:
        InputError: its classes are others, or in another order.
    """
    weights = job.plan.classifier
    header = read_header(find_weights(weights))
    known, number = header.get("classes"), header.get("config", {}).get("num_classes")
    if known is not None and list(known) != list(job.class_names):
        raise InputError(
            f"{weights}: was trained on the classes {', '.join(known)}; the list of classes has "
            "others, or another order"
        )
    if number != len(job.class_names):
        raise InputError(
            f"{weights}: knows {number} classes, but the list of classes has "
            f"{len(job.class_names)}; name the list it was trained with"
        )


def _check_method(key: str, weights: str, method: str) -> None:
    found = read_header(find_weights(weights)).get("method")
    if found != method:
        raise WeightsError(f"{key}: {weights} has weights of {found}, not of {method}")


def _check_training(job: Job, name: str) -> Sequence[str]:
    """Makes the network of a training, whose label maps may still be to come; says its doubts."""
    ids = {item.id for item in job.items}
    try:
        return TRAININGS[name].prepare(job.recipe_of(name), coming=ids).doubts
    except (InputError, UsageError, WeightsError) as error:
        raise type(error)(f"{name}: {error}") from error
