"""Google's tflite networks: how they run, and where the anchors of their detectors lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class TfliteNetwork:
    """A network with one input.

    Args:
        path: The tflite file.
        threads: Threads of the interpreter.
        outputs: Names of the outputs to give, in that order.
    """

    def __init__(self, path: str | Path, threads: int, outputs: Sequence[str]):
        self._net = Interpreter(str(path), num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        index = {d["name"]: d["index"] for d in self._net.get_output_details()}
        self._outputs = [index[name] for name in outputs]

    def __call__(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Outputs, with the batch axis, for one picture (H, W, 3) float32 in the network's range."""
        self._net.set_tensor(self._input, pixels[None])
        self._net.invoke()
        return [self._net.get_tensor(i) for i in self._outputs]


def anchor_centres(maps: Sequence[tuple[int, int]]) -> np.ndarray:
    """(N, 2) anchor centres of a detector in units of its input.

    Args:
        maps: Cells a side, and anchors a cell, of each of its feature maps.
    """
    centres = []
    for cells, count in maps:
        y, x = np.divmod(np.arange(cells * cells), cells)
        centres.append(np.repeat((np.stack([x, y], -1) + 0.5) / cells, count, axis=0))
    return np.concatenate(centres)
