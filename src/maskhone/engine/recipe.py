"""Flat recipes: one table of names and values becomes the dataclasses of one method."""

import dataclasses
import difflib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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

    Raises:
        UsageError: an unknown or a missing key, or a value of another type than its field.

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
    check_keys(table, fields)
    return [_make(kind, {k: v for k, v in table.items() if fields[k] is kind}) for kind in types]


def check_keys(table: Iterable[str], known: Collection[str]) -> None:
    """Refuses keys that are not known, and names the nearest one that is.

    Raises:
        UsageError: an unknown key.
    """
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise UsageError(f"unknown recipe key {name!r}; {hint}")


def _make(kind: type, values: dict[str, Any]) -> Any:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = get_type_hints(kind)
    for name, value in values.items():
        expected = _describe_type(hints[name])
        if expected and not _fits(value, hints[name]):
            raise UsageError(f"{name} is {value!r}; expected {expected}")
    needed = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(needed - values.keys())
    if missing:
        raise UsageError(f"the recipe lacks {', '.join(missing)}")
    return kind(**values)


_NAMES: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "nothing",
}


def _describe_type(hint: Any) -> str:
    """Says what a field takes; empty for types that no TOML file can hold."""
    if hint in _NAMES:
        return _NAMES[hint]
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return ", ".join(repr(value) for value in arguments)
    if get_origin(hint) in (Union, types.UnionType):
        said = [_describe_type(one) for one in arguments if one is not type(None)]
        return " or ".join(said) if all(said) else ""
    if get_origin(hint) is tuple:
        inner = _describe_type(arguments[0])
        return f"a list, each {inner}" if inner else ""
    return ""


def _fits(value: Any, hint: Any) -> bool:
    """Says whether a value is of a type that `_describe_type` knows; 1 may stand for 1.0."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in _NAMES:
        return isinstance(value, hint)
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return True  # the dataclasses say which
    if get_origin(hint) is tuple:
        each = arguments[0] if len(arguments) == 1 or arguments[1] is ... else None
        if not isinstance(value, tuple):
            return False
        inner = [each] * len(value) if each is not None else list(arguments)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return any(_fits(value, one) for one in arguments)
