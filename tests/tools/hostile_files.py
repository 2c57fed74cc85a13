"""Files as an attacker would make them: each function writes one that does harm where it is loaded with too much trust.

Nothing here harms the machine that runs the tests: what would be read is a canary beside the file, what would fill the
memory is described and not there.
"""

import io
import json
import struct
import zipfile

import h5py
import numpy as np

SHAPE = [None, 8, 8, 3]
CLASSES = 2
WEIGHTS = {"conv/kernel": (3, 3, 3, 4), "conv/bias": (4,), "class/kernel": (4, CLASSES), "class/bias": (CLASSES,)}
INPUT_SPEC = {"class_names": ["a", "b"], "height": 8, "width": 8, "channels": 3}

# ---------------------------------------------------------------- a small network, as data


def entry(kind, name, module="keras.layers", **arguments):
    """A layer's entry in a configuration of Keras 3."""
    return {"module": module, "class_name": kind, "registered_name": None, "config": {"name": name} | arguments}


def convolution(filters=4):
    return entry("Conv2D", "conv", filters=filters, kernel_size=[3, 3])


def dense(units=CLASSES):
    return entry("Dense", "class", units=units, activation="softmax")


def stack(*middle, first=None, last=None, shape=SHAPE):
    """A Sequential's configuration: a convolution, what is given, global average pooling, Dense."""
    pooling = entry("GlobalAveragePooling2D", "pool")
    ends = first or convolution(), last or dense()
    parts = [entry("InputLayer", "image", batch_shape=shape), ends[0], *middle, pooling, ends[1]]
    return entry("Sequential", "net", "keras", layers=parts)


def tensor(name):
    config = {"shape": SHAPE, "dtype": "float32", "keras_history": [name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def numpy_array(dtype):
    return {"class_name": "__numpy__", "config": {"value": [1.0], "dtype": dtype}}


def graph(parts, output, name="net"):
    """A functional network's configuration of (entry, names of the layers that it is called on, one list a call)."""
    layers = []
    for part, calls in parts:
        arguments = [[tensor(one) if isinstance(one, str) else one for one in call] for call in calls]
        nodes = [{"args": call, "kwargs": {}} for call in arguments]
        layers.append(part | {"name": part["config"]["name"], "inbound_nodes": nodes})
    ends = {"input_layers": [["image", 0, 0]], "output_layers": [[output, 0, 0]]}
    return entry("Functional", name, "keras.src.models.functional", layers=layers, **ends)


def classifier(*middle, convolved="image"):
    """A functional network: what is given, a convolution of one of these layers, global average pooling, Dense."""
    pooling = entry("GlobalAveragePooling2D", "pool")
    ends = [(convolution(), [[convolved]]), (pooling, [["conv"]]), (dense(), [["pool"]])]
    return graph([image(), *middle, *ends], "class")


def image():
    return entry("InputLayer", "image", batch_shape=SHAPE), []


def arrays(weights=None):
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in (weights or WEIGHTS).items()}


def write_h5(path, config, input_spec=INPUT_SPEC, weights=None, text=None):
    """An .h5 file by layers.

    Args:
        path: Path.
        config: dict, or None where `text` is the configuration.
        input_spec: dict or None.
        weights: dict of "layer/variable" -> shape.
        text: str, JSON as it is.
    """
    with h5py.File(path, "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = text or json.dumps(config), "3.15.0"
        if input_spec:
            file.attrs["meaning"] = json.dumps(input_spec)
        group = file.create_group("model_weights")
        found = arrays(weights)
        names = list(dict.fromkeys(name.split("/")[0] for name in found))
        group.attrs["layer_names"] = names
        for layer in names:
            labels = [name for name in found if name.startswith(f"{layer}/")]
            part = group.create_group(layer)
            part.attrs["weight_names"] = labels
            for label in labels:
                part[label] = found[label]
    return path


def write_keras(path, config, weights=None, compression=zipfile.ZIP_STORED, text=None):
    """A .keras file, whose weights lie by places."""
    inside = io.BytesIO()
    with h5py.File(inside, "w") as file:
        for name, array in arrays(weights).items():
            layer, variable = name.split("/")
            place = {"conv": "layers/conv2d", "class": "layers/dense"}[layer]
            file[f"{place}/vars/{'01'[variable == 'bias']}"] = array
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))
        archive.writestr("config.json", text or json.dumps(config))
        archive.writestr("model.weights.h5", inside.getvalue())
    return path


# ---------------------------------------------------------------- layers that open files


def vocabularies(place):
    """Layers that read a vocabulary from a file of the user's, by name."""
    kinds = ("StringLookup", "IntegerLookup", "TextVectorization")
    found = {kind: entry(kind, "words", vocabulary=place) for kind in kinds}
    words, module = found["StringLookup"], "keras.src.layers.preprocessing.string_lookup"
    return found | {
        "in a wrapper": entry("TimeDistributed", "wrapped", layer=words),
        "in a pipeline": entry("Pipeline", "pipe", layers=[words]),
        "by its module": words | {"module": module},
        "in an argument": entry("Rescaling", "scale", scale=words),
    }


# ---------------------------------------------------------------- HDF5 behind something else


def hdf5_in_user_block(path):
    """HDF5 that begins behind 512 bytes of something else."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs["model_config"] = json.dumps(stack())
    with open(path, "r+b") as file:
        file.write(b"#!/bin/sh\n")
    return path


# ---------------------------------------------------------------- bombs


def zeros_archive(path, member, size=3 << 30):
    """A .keras file of some megabytes of which one member unpacks to `size` bytes of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            if name == member:
                with archive.open(name, "w", force_zip64=True) as target:
                    for _ in range(size >> 20):
                        target.write(bytes(1 << 20))
            else:
                archive.writestr(name, json.dumps(stack()))
    return path


def lying_archive(path, size=64 << 20):
    """A .keras file whose directory says that config.json is small, while it unpacks to `size` bytes."""
    text = json.dumps(stack())
    write_keras(path, None, compression=zipfile.ZIP_DEFLATED, text=text + " " * size)
    content, true = path.read_bytes(), struct.pack("<L", len(text) + size)
    assert content.count(true) == 2
    path.write_bytes(content.replace(true, struct.pack("<L", len(text))))
    return path


def zeros_array(path, count=1 << 28):
    """An .h5 file of a few kilobytes with an array of a gigabyte that was never written."""
    write_h5(path, stack())
    with h5py.File(path, "r+") as file:
        group = file["model_weights/class"]
        del group["class/kernel"]
        group.create_dataset("class/kernel", (count,), "f4", chunks=(1 << 20,), compression="gzip")
    return path


def many_groups(path, depth=2000):
    """An .h5 file of groups in groups."""
    write_h5(path, stack())
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]
        for _ in range(depth):
            group = group.create_group("g")
    return path


def circle(path):
    """An .h5 file with a group that lies in itself."""
    write_h5(path, stack())
    with h5py.File(path, "r+") as file:
        file["model_weights/conv/again"] = file["model_weights"]
    return path


def shared_array(path, names=700):
    """An .h5 file with one array of a megabyte under hundreds of names."""
    write_h5(path, stack())
    with h5py.File(path, "r+") as file:
        array = file["model_weights"].create_dataset("big", data=np.ones(1 << 18, np.float32))
        for number in range(names):
            file[f"model_weights/copy{number}"] = array
    return path


def called_by_each_other(depth=28):
    """Networks, each of which calls the one inside it twice: 2 ** depth calls of the innermost."""
    inner = graph([image(), (entry("ReLU", "relu"), [["image"]])], "relu", "level0")
    for level in range(1, depth):
        name = f"level{level - 1}"
        parts = [image(), (inner, [["image"], [name]])]
        inner = graph(parts, name, f"level{level}")
        inner["config"]["output_layers"] = [[name, 1, 0]]
        for node in inner["config"]["layers"][1]["inbound_nodes"][1:]:
            node["args"][0]["config"]["keras_history"] = [name, 0, 0]
    name = f"level{depth - 1}"
    return classifier((inner, [["image"]]), convolved=name)


def with_operation(kind, *arguments, module="keras.src.ops.numpy", **settings):
    """A network with an operation that is called on what is given instead of a layer's output."""
    operation = entry(kind, "op", module) | {"config": {"name": "op"} | settings}
    return classifier((operation, [arguments]))


def with_outputs(outputs):
    """A network of several outputs, each [layer, call, output]."""
    network = classifier()
    network["config"]["output_layers"] = outputs
    return network


BIG = 1_000_000_000
# networks that take memory, or time, before anything of them is compared with the file
BIG_NETWORKS = {
    "Dense": lambda: stack(last=dense(BIG)),
    "Conv2D": lambda: stack(first=convolution(BIG)),
    "Embedding": lambda: stack(entry("Embedding", "words", input_dim=BIG, output_dim=64)),
    "Embedding by its build_config": lambda: stack(
        entry("Embedding", "words", input_dim=BIG, output_dim=64) | {"build_config": {"input_shape": [None, 3]}}
    ),
    "LSTM in a wrapper": lambda: stack(entry("TimeDistributed", "wrapped", layer=entry("LSTM", "lstm", units=BIG))),
    "ZeroPadding2D": lambda: stack(entry("ZeroPadding2D", "pad", padding=[[0, BIG], [0, BIG]])),
    "UpSampling2D": lambda: stack(entry("UpSampling2D", "up", size=[100_000, 100_000])),
    "Resizing": lambda: stack(entry("Resizing", "to", height=200_000, width=200_000)),
    "input": lambda: stack(shape=[None, BIG, BIG, 3]),
    "10,000 layers": lambda: stack(*(entry("ReLU", f"relu{number}") for number in range(10_000))),
    "2 ** 28 calls": called_by_each_other,
    "Full, without a tensor": lambda: with_operation("Full", 1.0, shape=[20_000, 20_000]),
    "Tile of a constant": lambda: with_operation("Tile", numpy_array("float32"), repeats=[400_000_000]),
    "text as numbers": lambda: with_operation("Add", "image", numpy_array(f"U{BIG // 2}")),
}


def deep_json(depth=100_000):
    """JSON nested so deep that a reader which calls itself runs out of stack."""
    return '{"class_name": "Sequential", "config": ' + "[" * depth + "]" * depth + "}"


MB4 = 4 << 20
LONG_TEXTS = {  # JSON of up to 4 MB that a reader with a pattern or a loop in a loop would read for hours
    "quotes": lambda: '"' + '\\"' * (MB4 // 2),
    "backslashes": lambda: '"' + "\\" * MB4,
    "open texts": lambda: '"a" ' * (MB4 // 4),
    "digits": lambda: "[" + "1" * MB4 + "]",
    "digits behind a point": lambda: "[1." + "1" * MB4 + "x]",
    "lists": lambda: "[" + "[]," * (MB4 // 12) + "[]]",
    "brackets": lambda: "[" * MB4,
    "repeated names": lambda: "{" + '"a":1,' * (MB4 // 6) + '"a":1}',
    "layers": lambda: json.dumps(stack(*[entry("ReLU", "r")] * 15_000)),
    "networks": lambda: json.dumps(many_networks(10_000)),
    "calls in calls": lambda: json.dumps(classifier((entry("ReLU", "relu"), [[calls_in_calls(30, MB4 // 4)]]))),
    "message in messages": lambda: json.dumps(stack(convolution("Example error message for object " * (MB4 // 33)))),
}


def many_networks(count):
    """A network of Keras 2 of so many networks of one name, each of which calls itself."""
    inner = {"class_name": "Sequential", "name": "n", "config": {"name": "n", "layers": []}}
    inner["inbound_nodes"] = [[["n", 0, 0, {}]]]
    return entry("Functional", "net", "keras", layers=[inner] * count, input_layers=[], output_layers=[])


def calls_in_calls(depth, size):
    """A layer that is called on a layer's description, and so on, and the innermost on a list of so many numbers."""
    inner = [1] * size + [tensor("image")]
    for _ in range(depth):
        inner = entry("ReLU", "relu") | {"inbound_nodes": [inner]}
    return inner


MEANINGS = {
    "height": {"height": BIG}, "no height": {"height": 0}, "a float": {"width": 8.5}, "text": {"height": "8"},
    "channels": {"channels": BIG}, "seventeen channels": {"channels": 17}, "NaN": {"scale": float("nan")},
    "infinity": {"offset": float("inf")}, "scales": {"scale": [1.0] * 1000}, "scale as text": {"scale": "1e400"},
    "interpolation": {"interpolation": "/etc/passwd"}, "bgr": {"bgr": "no"}, "names": {"class_names": "ab"},
    "one name": {"class_names": ["a" * 100_000, "b"]}, "same names": {"class_names": ["a", "a"]},
    "line": {"class_names": ["a\nerror: b", "b"]}, "escape": {"class_names": ["\x1b[2J", "b"]},
    "parent": {"class_names": ["../a", "b"]},
    "unheard": {"command": "rm"}, "true": {"height": True},
}  # fmt: skip


# ---------------------------------------------------------------- other tricks of HDF5


def linked(path, how, place):
    """An .h5 file whose last array lies elsewhere: in another file, or under another name.

    Args:
        path: Path.
        how: "soft link", "external link", "external storage", "virtual", "plugin" or "text".
        place: Path of another file.
    """
    write_h5(path, stack())
    with h5py.File(path, "r+") as file:
        group, label = file["model_weights/class"], "class/bias"
        del group[label]
        if how == "soft link":
            group[label] = h5py.SoftLink("/model_weights/conv/conv/bias")
        elif how == "external link":
            group[label] = h5py.ExternalLink(str(place), "/secret")
        elif how == "external storage":
            group.create_dataset(label, (CLASSES,), "f4", external=[(str(place), 0, 4 * CLASSES)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((CLASSES,), "f4")
            layout[:] = h5py.VirtualSource(str(place), "secret", (CLASSES,))
            group.create_virtual_dataset(label, layout)
        elif how == "text":
            group.create_dataset(label, data=["a", "b"])
        else:  # a filter that a plugin would bring
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((CLASSES,))
            plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
            space = h5py.h5s.create_simple((CLASSES,))
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            h5py.h5d.create(group.id, label.encode(), h5py.h5t.IEEE_F32LE, space, plan, links)
    return path


def mutated(content, seed, count=4):
    """The bytes of a file with some at random places replaced, most of them near its beginning and end."""
    generator = np.random.default_rng(seed)
    changed = bytearray(content)
    size = len(changed)
    for _ in range(count):
        reach = int(generator.choice([256, 4096, size]))
        place = int(generator.integers(min(reach, size)))
        place = place if generator.random() < 0.7 else size - 1 - place
        changed[place] = int(generator.choice([0, 1, 0x7F, 0xFF, generator.integers(256)]))
    return bytes(changed)
