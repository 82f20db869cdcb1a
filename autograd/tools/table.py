"""Tables of text."""


def table(rows, left) -> str:
    """Rows of texts as lines, with columns of one width: the first `left` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    cells = ([c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)
