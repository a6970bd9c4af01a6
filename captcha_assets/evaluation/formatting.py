"""Numbers as people read them."""


def counted(count: int, noun: str) -> str:
    """Return `count` and the noun, in the plural unless it is one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float, digits: int = 1) -> str:
    """Return a share, 0..1, as a percentage."""
    return f"{100 * share:.{digits}f} %"


def points(share: float, *, sign: bool = False) -> str:
    """Return a difference of shares in percentage points, without the unit."""
    return f"{100 * share:{'+' if sign else ''}.2f}"
