"""Everything maskhone raises on purpose.

    MaskhoneError               anything below; catch this one to catch them all
      InputError                a picture, mask or annotation file cannot be used as it is
      UsageError                the call itself is wrong: an unknown name, options that contradict
      WeightsError              a weight file is missing, damaged, or of another network
      MissingExtraError         an optional dependency is not installed

Every message states what was received, what was expected, and what to do about it.
"""

from functools import partial
from typing import Any


class MaskhoneError(Exception):
    """Base of all errors that maskhone raises on purpose."""


class InputError(MaskhoneError, ValueError):
    """A picture, mask or annotation file cannot be used as it is."""


class UsageError(MaskhoneError, ValueError):
    """The call itself is wrong: an unknown name, or options that contradict each other."""


class WeightsError(MaskhoneError):
    """A weight file is missing, damaged, or belongs to another network."""


class MissingExtraError(MaskhoneError, ImportError):
    """An optional dependency is not installed.

    Example:
        >>> str(MissingExtraError("accelerate", extra="train"))
        "this needs the package accelerate; install it with: pip install 'maskhone[train]'"
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"this needs the package {package}; install it with: pip install 'maskhone[{extra}]'"
        )
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets it pass from one process to another."""
        return partial(MissingExtraError, extra=self.extra), (self.package,)
