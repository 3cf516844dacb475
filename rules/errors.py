"""The error of a policy that is refused."""

from collections.abc import Iterable


class PolicyError(ValueError):
    """A policy that is refused whole; what was in force stays. ``errors`` has a line for each fault, with its
    mend."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(self.errors))

    def __reduce__(self) -> tuple[type["PolicyError"], tuple[list[str]]]:
        return type(self), (self.errors,)
