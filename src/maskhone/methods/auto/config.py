"""What can be set about the choice between methods."""

from dataclasses import dataclass

from maskhone.errors import UsageError

START_RATES = {
    "bpr": 8.4,
    "segrefiner-lite": 10.0,
    "guided": 0.8,
    "matting": 3.8,
    "crf": 3.3,
    "grabcut": 7.2,
}
"""Methods that can be asked, and what all looks of one are reckoned to take until it has run:
seconds per megapixel of object window; without a guard, the share of one look. Measured on
examples/dog.jpg, one thread of an x86 CPU."""

CAN_BE_SURE = ("bpr",)
"""Methods with looks of their own (`LooksAgain`): where one is sure, nobody else is asked."""


@dataclass(frozen=True, kw_only=True)
class AutoConfig:
    """Which methods look at a mask, and how long they may take.

    Attributes:
        seconds: for the masks of one picture; methods that do not fit with all their looks are
            left out. 0 sets no limit. What is left out depends on how fast the machine is, so
            with a limit two runs may differ. Loading a method, once, does not count.
        methods: names with commas between. Those that can be sure are asked first, in this order.
    """

    seconds: float = 0.0
    methods: str = "bpr,crf,grabcut"

    def __post_init__(self) -> None:
        if not self.seconds >= 0:  # true for NaN too
            raise UsageError(f"seconds is {self.seconds}; expected 0 for no limit, or more")
        unknown = [name for name in self.names if name not in START_RATES]
        if unknown or len(set(self.names)) < len(self.names):
            raise UsageError(
                f"methods is {self.methods!r}; expected one or more of {', '.join(START_RATES)}, "
                "each once, with commas between"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The methods one by one."""
        return tuple(name.strip() for name in self.methods.split(","))
