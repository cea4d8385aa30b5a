"""How archive members become the files of the cache: MediaPipe task bundles and checkpoints without pickle.

Every recipe maps the same bytes to the same bytes, because the results' digests are pinned in the registry.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_ALIGNMENT = 16
_ZIP_LOCAL_HEADER = 30  # bytes before the name, PKWARE APPNOTE 4.3.7
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can have


def copy(members: Sequence[bytes]) -> bytes:
    """The member itself."""
    (data,) = members
    return data


def pose_bundle(members: Sequence[bytes]) -> bytes:
    """`pose_landmarker_full.task` from the detector's and the landmark network's tflite files."""
    detector, landmarks = members
    landmarks = with_input_normalization(
        landmarks,
        mean=0.0,
        std=255.0,
        outputs=("landmarks", "pose presence", "segmentation mask", "heatmap", "world landmarks"),
    )
    return _bundle({"pose_detector.tflite": detector, "pose_landmarks_detector.tflite": landmarks})


def hand_bundle(members: Sequence[bytes]) -> bytes:
    """`hand_landmarker.task` from the palm detector's and the landmark network's tflite files."""
    detector, landmarks = members
    return _bundle({"hand_detector.tflite": detector, "hand_landmarks_detector.tflite": landmarks})


def _bundle(entries: dict[str, bytes]) -> bytes:
    # The Tasks API maps the entries in place when they are stored uncompressed on 16-byte boundaries; otherwise it
    # warns and copies them. The extra field in front of the data is padding.
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as bundle:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # as on Linux, whatever the host
            end = out.tell() + _ZIP_LOCAL_HEADER + len(name) + 4
            padding = -end % _ALIGNMENT
            entry.extra = b"\xff\xff" + padding.to_bytes(2, "little") + bytes(padding)
            bundle.writestr(entry, data)
    return out.getvalue()


def with_input_normalization(model: bytes, mean: float, std: float, outputs: Sequence[str]) -> bytes:
    """A tflite model with TFLite metadata saying that its input is (pixel - mean) / std.

    The Tasks API refuses float models without that ("requires specifying NormalizationOptions metadata"), and the
    landmark graphs in the wheel were made for the older API, which had the numbers in its graph files. Upstream's
    metadata writer cannot be used: it imports a C extension that the wheel no longer has.

    Args:
        model: A tflite flatbuffer with one subgraph and one image input.
        mean: Subtracted from pixel values of 0 to 255.
        std: What they are divided by then.
        outputs: One name for each output tensor.
    """
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as md
    from mediapipe.tasks.metadata import schema_py_generated as tfl

    class Builder(flatbuffers.Builder):
        def CreateNumpyVector(self, x):
            # The schema wants weights on 16-byte boundaries (`force_align`); the generated Python code forgets that.
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, _ALIGNMENT)
            start = self.Head() - x.size
            self.head = start
            self.Bytes[start : start + x.size] = x.tobytes()
            self.vectorNumElems = x.size
            return self.EndVector()

    tree = tfl.ModelT.InitFromObj(tfl.Model.GetRootAsModel(model, 0))
    (graph,) = tree.subgraphs
    if len(graph.inputs) != 1 or len(graph.outputs) != len(outputs):
        raise ValueError(f"Model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs")

    normalization = md.NormalizationOptionsT()
    normalization.mean, normalization.std = [mean], [std]
    unit = md.ProcessUnitT()
    unit.optionsType, unit.options = md.ProcessUnitOptions.NormalizationOptions, normalization
    image = md.ImagePropertiesT()
    image.colorSpace = md.ColorSpaceType.RGB
    content = md.ContentT()
    content.contentPropertiesType, content.contentProperties = md.ContentProperties.ImageProperties, image
    tensor = md.TensorMetadataT()
    tensor.name, tensor.content, tensor.processUnits = "image", content, [unit]
    names = []
    for name in outputs:
        output = md.TensorMetadataT()
        output.name = name
        names.append(output)
    subgraph = md.SubGraphMetadataT()
    subgraph.inputTensorMetadata, subgraph.outputTensorMetadata = [tensor], names
    metadata = md.ModelMetadataT()
    metadata.subgraphMetadata, metadata.minParserVersion = [subgraph], "1.0.0"
    builder = flatbuffers.Builder(1024)
    builder.Finish(metadata.Pack(builder), b"M001")

    buffer = tfl.BufferT()
    buffer.data = np.frombuffer(bytes(builder.Output()), np.uint8)
    tree.buffers.append(buffer)
    entry = tfl.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(tree.buffers) - 1
    tree.metadata = [*(tree.metadata or []), entry]
    builder = Builder(len(model) + 65536)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _NumpyUnpickler(pickle.Unpickler):
    # Everything an array of plain numbers needs. None of the three runs code that the pickle brings along.
    _allowed = ("_reconstruct", "ndarray", "dtype")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in self._allowed:
            if name == "_reconstruct":
                return np.empty(0).__reduce__()[0]  # private, and moved between numpy 1 and 2
            return getattr(np, name)
        raise pickle.UnpicklingError(f"Refused: the checkpoint asks for {module}.{name}; only numpy arrays may load")


def load_numpy_pickle(data: bytes) -> Any:
    """Nested containers of numpy arrays from a pickle; anything else in it is refused.

    Raises:
        pickle.UnpicklingError: The pickle names a class or function other than those numpy arrays are made of.
    """
    return _NumpyUnpickler(io.BytesIO(data)).load()


def _lpips(members: Sequence[bytes], network: str) -> bytes:
    from safetensors.numpy import save

    (data,) = members
    tree = load_numpy_pickle(data)
    convolutions = tree.pop(network)
    tensors: dict[str, np.ndarray] = {}
    for i in range(len(convolutions)):
        layer = convolutions[f"Conv_{i}"]
        tensors[f"conv.{i}.weight"] = _oihw(layer["kernel"])
        tensors[f"conv.{i}.bias"] = np.ascontiguousarray(layer["bias"], "<f4")
    for i in range(len(tree)):
        tensors[f"lin.{i}.weight"] = _oihw(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])
    return save(tensors)


def _oihw(kernel: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), "<f4")


def lpips_alex(members: Sequence[bytes]) -> bytes:
    """LPIPS v0.1 with AlexNet as safetensors.

    Tensors: `conv.0` to `conv.4` with `.weight` (out, in, height, width) and `.bias` (out,), the ImageNet network;
    `lin.0.weight` to `lin.4.weight` (1, channels, 1, 1), the learned heads. float32.
    """
    return _lpips(members, "AlexNet_0")


def lpips_vgg(members: Sequence[bytes]) -> bytes:
    """LPIPS v0.1 with VGG-16 as safetensors; names as in `lpips_alex`, with `conv.0` to `conv.12`."""
    return _lpips(members, "VGG16_0")


def i3d_kinetics_400(members: Sequence[bytes]) -> bytes:
    """I3D of Kinetics-400 as safetensors, named as `models.features.i3d.I3D` names its parts.

    Tensors of a convolution: `.conv3d.weight` (out, in, time, height, width) and, where it is normalised,
    `.bn.bias|running_mean|running_var` (out,); of the classifier `logits.conv3d.weight|bias`. float32.
    """
    from safetensors.numpy import save

    (data,) = members
    tree = load_numpy_pickle(data)
    branches = {
        "Branch_0/Conv3d_0a_1x1": "b0",
        "Branch_1/Conv3d_0a_1x1": "b1a",
        "Branch_1/Conv3d_0b_3x3": "b1b",
        "Branch_2/Conv3d_0a_1x1": "b2a",
        "Branch_2/Conv3d_0b_3x3": "b2b",
        "Branch_3/Conv3d_0b_1x1": "b3b",
    }
    leaves = {
        "Conv_0/kernel": "conv3d.weight",
        "Conv_0/bias": "conv3d.bias",
        "BatchNorm_0/bias": "bn.bias",
        "BatchNorm_0/mean": "bn.running_mean",
        "BatchNorm_0/var": "bn.running_var",
    }
    tensors: dict[str, np.ndarray] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, np.ndarray):
            unit, leaf = "/".join(path[1:-2]), leaves["/".join(path[-2:])]
            if path[0].startswith("Logits"):
                name = f"logits.{leaf}"
            else:
                name = ".".join([path[0], *([branches[unit]] if unit else []), leaf])
            array = node.transpose(4, 3, 0, 1, 2) if leaf == "conv3d.weight" else node.reshape(-1)
            tensors[name] = np.ascontiguousarray(array, "<f4")
            return
        for key, child in node.items():
            walk(child, (*path, key))

    walk(tree["params"], ())
    walk(tree["batch_stats"], ())
    return save(tensors)


RECIPES: dict[str, Callable[[Sequence[bytes]], bytes]] = {
    f.__name__: f for f in (copy, pose_bundle, hand_bundle, lpips_alex, lpips_vgg, i3d_kinetics_400)
}
"""Recipe by the name the registry uses."""
