"""The errors that data can cause; wrong arguments raise plain `ValueError` or `TypeError`."""


class CorruptStream(ValueError):
    """The bytes are no stream of this format: truncated, trailing, bad header or bad final state."""


class TableMismatch(ValueError):
    """The stream names another table, or another precision, than the one it is decoded with."""


class IncompleteStream(EOFError):
    """A pass needs bytes that are yet to come; nothing was decoded: feed them and ask again.

    Only a decoder that is fed raises it. It is no CorruptStream: nothing is wrong so far.

    ready: how many symbols at the front of the pass can be decoded from the bytes at hand.
    """

    def __init__(self, message: str, ready: int = 0) -> None:
        super().__init__(message)
        self.ready = ready
