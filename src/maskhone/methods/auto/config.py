"""What can be set about the choice between methods."""

from dataclasses import dataclass

from maskhone.errors import UsageError

START_RATES = {"guided": 0.5, "matting": 1.2, "crf": 1.0, "grabcut": 2.4, "bpr": 6.1}
"""Methods that can be tried, and what they are reckoned to take until they have run: seconds per
megapixel of object window. Measured on examples/dog.jpg, one thread of an x86 CPU."""


@dataclass(frozen=True, kw_only=True)
class AutoConfig:
    """Which methods look at a mask, and how long they may take.

    Attributes:
        seconds: for the masks of one picture; methods that do not fit are left out, the dearest
            first. 0 sets no limit. What is left out depends on how fast the machine is, so with a
            limit two runs may differ. Loading a method, once, does not count.
        methods: names with commas between; the first one runs whatever it takes. A method whose
            package is not installed is left out, and the notes say so.
    """

    seconds: float = 0.0
    methods: str = "guided,matting,crf,grabcut,bpr"

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
