"""LVIS: ground truth with a long tail of categories, and its COCO part.

Scoring a COCO segmenter on LVIS's finer outlines needs LVIS ground truth with COCO's category ids.
"""

from typing import Any

from maskhone.errors import InputError

SYNSETS = {
    1: "person.n.01", 2: "bicycle.n.01", 3: "car.n.01", 4: "motorcycle.n.01", 5: "airplane.n.01",
    6: "bus.n.01", 7: "train.n.01", 8: "truck.n.01", 9: "boat.n.01", 10: "traffic_light.n.01",
    11: "fireplug.n.01", 13: "stop_sign.n.01", 14: "parking_meter.n.01", 15: "bench.n.01",
    16: "bird.n.01", 17: "cat.n.01", 18: "dog.n.01", 19: "horse.n.01", 20: "sheep.n.01",
    21: "beef.n.01", 22: "elephant.n.01", 23: "bear.n.01", 24: "zebra.n.01", 25: "giraffe.n.01",
    27: "backpack.n.01", 28: "umbrella.n.01", 31: "bag.n.04", 32: "necktie.n.01", 33: "bag.n.06",
    34: "frisbee.n.01", 35: "ski.n.01", 36: "snowboard.n.01", 37: "ball.n.06", 38: "kite.n.03",
    39: "baseball_bat.n.01", 40: "baseball_glove.n.01", 41: "skateboard.n.01",
    42: "surfboard.n.01", 43: "tennis_racket.n.01", 44: "bottle.n.01", 46: "wineglass.n.01",
    47: "cup.n.01", 48: "fork.n.01", 49: "knife.n.01", 50: "spoon.n.01", 51: "bowl.n.03",
    52: "banana.n.02", 53: "apple.n.01", 54: "sandwich.n.01", 55: "orange.n.01",
    56: "broccoli.n.01", 57: "carrot.n.01", 58: "frank.n.02", 59: "pizza.n.01",
    60: "doughnut.n.02", 61: "cake.n.03", 62: "chair.n.01", 63: "sofa.n.01", 64: "pot.n.04",
    65: "bed.n.01", 67: "dining_table.n.01", 70: "toilet.n.02", 72: "television_receiver.n.01",
    73: "laptop.n.01", 74: "mouse.n.04", 75: "remote_control.n.01", 76: "computer_keyboard.n.01",
    77: "cellular_telephone.n.01", 78: "microwave.n.02", 79: "oven.n.01", 80: "toaster.n.02",
    81: "sink.n.01", 82: "electric_refrigerator.n.01", 84: "book.n.01", 85: "clock.n.01",
    86: "vase.n.01", 87: "scissors.n.01", 88: "teddy.n.01", 89: "hand_blower.n.01",
    90: "toothbrush.n.01",
}  # fmt: skip
"""COCO category id to WordNet synset (lvis-dataset/lvis-api:data/coco_to_synset.json)."""


def to_coco(lvis: Any, coco: Any) -> dict[str, Any]:
    """Turns LVIS ground truth into ground truth of COCO's categories on COCO's images.

    Args:
        lvis: content of an LVIS json such as `lvis_v1_val.json`.
        coco: content of a COCO json; only its images are read, and other images are dropped.

    Returns:
        Ground truth for `metrics.average_precision`. Annotations of other categories are left out
        and the rest numbered from 1; categories are those that occur, in LVIS's order.

    Raises:
        InputError: this is not LVIS ground truth.

    Source: SegRefiner section 8.2; MengyuWang826/SegRefiner:lvis2coco.py.
    """
    for key in ("images", "annotations", "categories"):
        if key not in lvis:
            raise InputError(f"LVIS ground truth has no {key}; give lvis_v1_val.json")
    if not isinstance(coco, dict) or "images" not in coco:
        raise InputError("COCO json has no images; give instances_val2017.json")
    ids_by_synset = {synset: number for number, synset in SYNSETS.items()}
    new_ids = {
        category["id"]: ids_by_synset[category["synset"]]
        for category in lvis["categories"]
        if category.get("synset") in ids_by_synset
    }
    wanted = {image["id"] for image in coco["images"]}
    images = [_renumber(image, new_ids) for image in lvis["images"] if image["id"] in wanted]
    kept = [
        {**each, "category_id": new_ids[each["category_id"]]}
        for each in lvis["annotations"]
        if each["image_id"] in wanted and each["category_id"] in new_ids
    ]
    annotations = [{**each, "id": number} for number, each in enumerate(kept, start=1)]
    occurring = {each["category_id"] for each in annotations}
    for image in images:
        occurring.update(*(image[field] for field in _LISTS if field in image))
    categories = [
        {**category, "id": new_ids[category["id"]]}
        for category in lvis["categories"]
        if new_ids.get(category["id"]) in occurring
    ]
    rest = {key: lvis[key] for key in ("info", "licenses") if key in lvis}
    return {"images": images, "annotations": annotations, "categories": categories, **rest}


_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def _renumber(image: dict[str, Any], new_ids: dict[int, int]) -> dict[str, Any]:
    lists = {
        field: [new_ids[number] for number in image[field] if number in new_ids]
        for field in _LISTS
        if field in image
    }
    return {**image, **lists}
