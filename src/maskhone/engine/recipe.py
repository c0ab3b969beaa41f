"""Flat recipes: one table of names and values becomes the dataclasses of one method."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from maskhone.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What trained weights are called and come from.

    Attributes:
        name: `architecture.training-data`.
        licence: of the weights, following from the data.
        start_from: a maskhone weight file of the same network to go on from; empty for none.
    """

    name: str
    licence: str = "unknown"
    start_from: str = ""


def split_recipe(table: Mapping[str, Any], types: Sequence[type]) -> list[Any]:
    """Makes one instance of each dataclass from the keys that are its field names.

    Args:
        table: names and values; every name must be a field of exactly one of the types.
        types: dataclasses with keyword fields.

    Returns:
        One instance per type, in order.

    Example:
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Size:
        ...     width: int = 1
        >>> split_recipe({"width": 3}, [Size])
        [Size(width=3)]
    """
    fields: dict[str, type] = {}
    for kind in types:
        for field in dataclasses.fields(kind):
            assert field.name not in fields, f"{field.name} is a field of two of these types"
            fields[field.name] = kind
    for name in table:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(fields))}"
            raise UsageError(f"unknown recipe key {name!r}; {hint}")
    return [_make(kind, {k: v for k, v in table.items() if fields[k] is kind}) for kind in types]


def _make(kind: type, values: dict[str, Any]) -> Any:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    needed = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - values.keys())
    if missing:
        raise UsageError(f"the recipe lacks {', '.join(missing)}")
    return kind(**values)
