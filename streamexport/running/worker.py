"""Runs a net in Caffe for another process: arrays in on standard input, arrays out on standard output.

    python worker.py PROTOTXT [MODEL...]

Either way a message is the length of what follows (8 bytes, little-endian), then an array as .npy. The first two in
are the names of the input blobs, and those of the blobs that are wanted, which are sent back once the net is loaded. Then
for a batch in for each input, these blobs come out, all in the order of the names, each a message of its own. It ends when
its input does.

Caffe aborts the process on bad input, so that it is best kept in one of its own; and the interpreter that has it is
seldom the one that has everything else. Hence this file imports nothing of ours and runs on Python 3.8 with numpy 1.
"""

from __future__ import annotations

import io
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def send(stream: IO[bytes], array: Array) -> None:
    import numpy as np

    message = io.BytesIO()
    np.save(message, array, allow_pickle=False)
    stream.write(message.tell().to_bytes(8, "little"))
    stream.write(message.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> Array | None:
    """The next array; None where the stream ends."""
    import numpy as np

    size = int.from_bytes(stream.read(8), "little")
    message = stream.read(size)
    if not message or len(message) < size:
        return None
    array: Array = np.load(io.BytesIO(message), allow_pickle=False)
    return array


def main() -> None:
    prototxt, *models = sys.argv[1:]
    # What Caffe and its layers print must not get between the arrays.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    del sys.path[0]  # this folder, whose modules are not for others
    import caffe

    if not hasattr(caffe, "Net"):
        sys.exit("the module named caffe there is not Caffe")
    net = caffe.Net(prototxt, caffe.TEST)
    for model in models:
        net.copy_from(model)
    inputs, wanted = receive(sys.stdin.buffer), receive(sys.stdin.buffer)
    if inputs is None or wanted is None:
        return
    send(replies, wanted)
    while True:
        received = [(name, receive(sys.stdin.buffer)) for name in inputs]
        batches = {name: batch for name, batch in received if batch is not None}
        if len(batches) < len(received):
            return
        for name, batch in batches.items():
            net.blobs[name].reshape(*batch.shape)
        net.reshape()
        for name, batch in batches.items():
            net.blobs[name].data[...] = batch
        net.forward()
        for name in wanted:
            send(replies, net.blobs[name].data)


if __name__ == "__main__":
    main()
