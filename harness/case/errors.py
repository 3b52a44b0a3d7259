"""Why there is no such case, or none that can be judged."""


class CaseError(ValueError):
    """A case that does not exist: the message names the field and what is allowed."""


class InvalidCase(ValueError):
    """A case on which no implementation can be judged, since golden, the float64 oracle, leaves
    the range of the output's dtype, or a score reaches 1e4."""
