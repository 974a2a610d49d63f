"""An autoregressive model over text, byte by byte, decoded while the stream is still under way.

A network reads the last 8 bytes and gives a logit for each value of the next one. Sender and receiver have
its weights, and must make the same integers of its logits on whatever machines they are:

- `lower` turns the network into exact kernels, whose logits are equal to the bit everywhere;
- exp is such a kernel, too; its values become integers, and all further arithmetic is theirs;
- a token is coded as the 8 decisions on the way down a binary tree, each under a row of one fixed table;
- the range coder is first in, first out: text can be read as soon as the stream settles it.

A vocabulary of 2**k tokens takes k decisions. The model is trained here, for two seconds, on modules of
Python's own library, and codes a text of another one.
"""

import argparse
import inspect
import logging
import subprocess
import textwrap
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from quadrans.entropy import CdfTable, CorruptStream, IncompleteStream
from quadrans.entropy.range_coder import Decoder, Encoder
from quadrans.kernels import Exp
from quadrans.nets.lowering import lower

CONTEXT, WIDTH, HIDDEN = 8, 16, 256  # bytes read, values for each, hidden units
LEVELS = 1 << 12
END = 0  # the byte that ends a text

# Row r: bit 1 has probability (r + 1) / 4096. Each row's last cell is its escape, which no bit needs.
ones = (1 << 16) // LEVELS * np.arange(1, LEVELS)
TABLE = CdfTable([(65535 - one, one, 1) for one in ones], np.zeros(LEVELS - 1, int), precision=16)


def train(text: bytes, steps: int) -> tuple[nn.Embedding, nn.Sequential]:
    """A small model of text: an embedding of the last bytes, and a network from them to 256 logits."""
    torch.manual_seed(0)
    embedding = nn.Embedding(256, WIDTH)
    network = nn.Sequential(nn.Linear(CONTEXT * WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 256))
    tokens = torch.tensor(list(bytes(CONTEXT) + text + bytes([END])))
    windows = tokens.unfold(0, CONTEXT + 1, 1)
    optimizer = torch.optim.Adam([*embedding.parameters(), *network.parameters()], 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (256,))]
        logits = network(embedding(batch[:, :-1]).flatten(1))
        loss = nn.functional.cross_entropy(logits, batch[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return embedding, network


class Model:
    """The trained model in exact arithmetic."""

    def __init__(self, embedding: nn.Embedding, network: nn.Sequential) -> None:
        self.embedding = embedding.weight.detach().numpy()
        self.network, self.exp = lower(network), Exp()

    def rows(self, last: bytes) -> np.ndarray:
        """(256,) rows of TABLE, given the last bytes: at n for node n of the tree, whose root is node 1."""
        tokens = np.frombuffer(last.rjust(CONTEXT, b"\0"), np.uint8)
        logits = self.network(self.embedding[tokens].reshape(1, 1, -1))
        exact = self.exp(logits - logits.max()).reshape(-1)
        tree = np.concatenate([np.zeros(256, np.int64), (exact * 2**24).astype(np.int64) + 1])
        for size in (128, 64, 32, 16, 8, 4, 2, 1):
            tree[size : 2 * size] = tree[2 * size : 4 * size].reshape(-1, 2).sum(1)
        tree[0] = 2 * tree[1]  # not a node: anything but a division by zero
        return np.clip(tree[1::2] * LEVELS // tree[:256], 1, LEVELS - 1) - 1


def send(model: Model, text: bytes) -> Iterator[bytes]:
    """Packets of the stream of a text, each as soon as it is settled."""
    encoder = Encoder(TABLE)
    for place, byte in enumerate(text + bytes([END])):
        path = (256 | byte) >> np.arange(8, 0, -1)
        bits = byte >> np.arange(7, -1, -1) & 1
        encoder.put(bits, model.rows(text[max(0, place - CONTEXT) : place])[path])
        if packet := encoder.take():
            yield packet
    yield encoder.finish()


def receive(model: Model, packets: Iterator[bytes]) -> Iterator[int]:
    """The bytes of the text, each as soon as the packets settle it."""
    decoder = Decoder(b"", TABLE, final=False)
    last = b""
    while True:
        rows, node = model.rows(last), 1
        while node < 256:
            try:
                bit = int(decoder.get(rows[node : node + 1])[0])
            except IncompleteStream:
                packet = next(packets, None)
                decoder.feed(packet or b"", final=packet is None)
                continue
            if bit not in (0, 1):
                raise CorruptStream(f"{bit} in the place of a bit")  # an escape: no sender writes one
            node = 2 * node + bit
        byte = node - 256
        if byte == END:
            break
        last = (last + bytes([byte]))[-CONTEXT:]
        yield byte
    for packet in packets:
        decoder.feed(packet)
    decoder.close()  # raises unless the stream was used up exactly


def main() -> None:
    library = "".join(map(inspect.getsource, (argparse, inspect, logging, subprocess)))
    trained = train(library.encode(), steps=600)
    text = inspect.getdoc(textwrap.TextWrapper).encode()

    sent, received = bytearray(), bytearray()

    def link() -> Iterator[bytes]:
        for packet in send(Model(*trained), text):
            sent.extend(packet)
            yield packet

    for byte in receive(Model(*trained), link()):  # takes a packet from the sender only when it must
        received.append(byte)
        if len(received) == len(text) // 2:
            print(f"the first half of the text is there after {len(sent)} bytes")
    assert received == text
    print(f"{len(text)} bytes of text: {len(sent)} bytes here, {len(zlib.compress(text, 9))} by zlib -9")


if __name__ == "__main__":
    main()
