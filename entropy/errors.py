"""The two errors that data can cause; wrong arguments raise plain `ValueError` or `TypeError`."""


class CorruptStream(ValueError):
    """The bytes are no stream of this format: truncated, trailing, bad header or bad final state."""


class TableMismatch(ValueError):
    """The stream names another table, or another precision, than the one it is decoded with."""
