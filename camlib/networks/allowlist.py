"""What a stranger's description of a network may name, and how much: checked as data, before Keras sees it.

Keras builds whatever a configuration names. Here stands what may be named: the layers and operations that compute with
what they are given and with their weights, and do nothing else.
"""

import contextlib
import inspect
import json
import math
import re

import keras
from keras.src.backend.common import global_state
from keras.src.ops import core, einops, image, linalg, nn, numpy
from keras.src.ops import math as ops_math

from camlib.networks.keras2_config import NETWORKS, OF_APPLICATIONS, is_operation, tensors_in
from camlib.networks.keras2_operations import BUILD_IT, Refused

# ---------------------------------------------------------------- text into data

LONGEST_JSON = 8 << 20  # characters of JSON; keras.applications' longest has 1.2 million
DEEPEST_JSON = 100  # lists and dicts in each other; a network in a network takes three


def parsed(text):
    """JSON as data, unless it is so long or deep that working with it would take the memory or the stack.

    Args:
        text: str or None.

    Returns:
        dict, list ... or None.

    Raises:
        ValueError: it is, or is no JSON.
    """
    if text is None:
        return None
    if len(text) > LONGEST_JSON:
        raise ValueError(f"{len(text):,} characters; expected {LONGEST_JSON:,} at most")
    with contextlib.suppress(RecursionError):
        data = json.loads(text)
        level = [data]
        for _ in range(DEEPEST_JSON + 1):
            holders = [one for one in level if isinstance(one, (dict, list))]
            level = [part for one in holders for part in (one.values() if isinstance(one, dict) else one)]
            if not holders:
                return data
    raise ValueError(f"lists in lists, more than {DEEPEST_JSON} deep")


# ---------------------------------------------------------------- what may be named

NAMES_OF_LAYERS = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout Attention AugMix
AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D
BatchNormalization Bidirectional CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization
Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D
Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose Cropping1D Cropping2D
Cropping3D CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding
Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D
GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention HashedCrossing Hashing
Identity InputLayer LSTM LSTMCell Layer LayerNormalization LeakyReLU Masking MaxNumBoundingBoxes MaxPool1D MaxPool2D
MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp MultiHeadAttention Multiply
Normalization PReLU Permute Pipeline RMSNormalization RNN RandAugment RandomBrightness RandomColorDegeneration
RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing
ReversibleEmbedding STFTSpectrogram SeparableConv1D SeparableConv2D SeparableConvolution1D SeparableConvolution2D
SimpleRNN SimpleRNNCell Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization
StackedRNNCells Subtract TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D Wrapper
ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
LAYERS = set(NAMES_OF_LAYERS.split())
# Keras's other layers, and why a stranger's file may not name them
REFUSED_LAYERS = dict.fromkeys("Lambda TFSMLayer TorchModuleWrapper JaxLayer FlaxLayer".split(), "may run code")
REFUSED_LAYERS |= dict.fromkeys("StringLookup IntegerLookup TextVectorization".split(), "opens files of this computer")
# Operations that call a function; those of linear algebra and the like only compute
CALL_FUNCTIONS = set("AssociativeScan Cond ForiLoop JVP Map Scan Switch VectorizedMap WhileLoop".split())
OPERATIONS = (numpy, nn, ops_math, image, linalg, einops, core)
QUANTISED = "AbsMaxQuantizer Int8QuantizationConfig Int4QuantizationConfig Float8QuantizationConfig".split()
SMALL_PARTS = ("initializers", "regularizers", "constraints", "dtype_policies")  # rooms of Keras; data, all of them
# What an entry of a configuration can be besides a layer: plain data
DATA = {"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__", "__bytes__"}
NUMBERS = {
    "bool", "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64",
}  # fmt: skip


def admitted():
    """What a configuration in the form of Keras 3 may name: set of (module, class)."""
    named = {("keras.layers", name) for name in LAYERS}
    named |= {(module, kind) for kind, module in (NETWORKS | OF_APPLICATIONS).items()} | {("keras", "Functional")}
    for room in OPERATIONS:
        own = {name for name, _ in inspect.getmembers(room, is_operation)} - CALL_FUNCTIONS - {"Operation"}
        named |= {(room.__name__, name) for name in own}
    for name in QUANTISED:
        named |= {("keras.quantizers", name), ("keras", name), (getattr(keras.quantizers, name).__module__, name)}
    for room in SMALL_PARTS:
        for name, kind in inspect.getmembers(getattr(keras, room), inspect.isclass):
            named |= {(f"keras.{room}", name), ("keras", name), (kind.__module__, name)}
    return named


ADMITTED = admitted()


def refuse_unsafe(entry):
    """Raise Refused for all in a configuration that is not known to do no harm (CVE-2025-9905).

    Args:
        entry: the configuration in the form of Keras 3, where Keras's own classes have its modules, or a part of it.
    """
    if isinstance(entry, dict) and "class_name" in entry:
        if entry["class_name"] in DATA:
            refuse_odd_data(entry)
        else:
            refuse_class(entry)
            refuse_calls_without_tensors(entry)
    values = entry.items() if isinstance(entry, dict) else enumerate(entry) if isinstance(entry, list) else ()
    for key, value in values:
        if isinstance(value, str) and key not in NAME_KEYS:
            refuse_places(key, value)
        elif key != "keras_history":
            refuse_unsafe(value)


def refuse_class(entry):
    """Raise Refused unless an entry names a class of above, by Keras's own name for it."""
    name, module = str(entry["class_name"]), str(entry.get("module"))
    own = module.split(".")[0] == "keras" and ">" not in (entry.get("registered_name") or "")
    what = f"its layer or function {name[:30]!r} ({module[:30]})"
    # the bytecode of another Python, which none but that one runs
    if name == "Lambda" and not isinstance(entry["config"].get("function"), dict):
        raise Refused(f"{what} is code of another Python; expected Keras's own layers only. Or {BUILD_IT}")
    if own and name in REFUSED_LAYERS:
        raise Refused(
            f"{what} {REFUSED_LAYERS[name]}; expected Keras's own layers only. If you trust whoever made the file, use "
            "--trust-model"
        )
    if not own or (module, name) not in ADMITTED:
        raise Refused(
            f"{what} is none of Keras's own that only compute; expected those. Or load it in Python with that and call "
            "explain of camlib"
        )


def refuse_odd_data(entry):
    """Raise Refused for arrays in a configuration that are no numbers: text of a billion letters takes memory."""
    kind = entry["config"].get("dtype", "float32")
    if kind not in NUMBERS:
        raise Refused(f"it holds numbers of the kind {str(kind)[:40]!r}; expected float32 or the like")


def refuse_calls_without_tensors(entry):
    """Raise Refused for a layer that is called on constants alone: Keras would compute that, and at once."""
    for node in entry.get("inbound_nodes") or ():
        if not any(tensors_in(node)):
            name = str(entry.get("name"))[:40]
            raise Refused(f"its layer {name!r} is called on no other's output; expected a network's description")


NAME_KEYS = {"name", "module", "class_name", "registered_name"}  # keys of what is no argument; others may hold no slash
QUANTISED_MODE = re.compile(r"(int4|gptq|awq)(/-?[0-9]{1,9}){1,2}")  # of so many bits, in blocks of so many weights
PLACE = re.compile(r"[/\\\0]|^~|^\.\.$")


def refuse_places(key, text):
    """Raise Refused for an argument that names a file or an address; none of the layers above has such a one."""
    if key == "mode" and (quantised := QUANTISED_MODE.fullmatch(text)):
        if quantised[1] == "int4":
            return
        raise Refused(
            f"a layer of it is quantised by {text}, which is not read from files; expected int8, int4 or float8. Or "
            "load it in Python and call explain of camlib"
        )
    if PLACE.search(text):
        raise Refused(
            f"it names a file or an address, {text[:60]!r} as {str(key)[:30]}; expected numbers and plain words. If "
            "you trust whoever made the file, use --trust-model"
        )


# ---------------------------------------------------------------- how much

MOST_CALLS = 4000  # of layers; keras.applications' largest has about 1,100
FEW = 1 << 24  # numbers that may be given memory without as many in the file: 64 MB
LARGEST_OUTPUT = 1 << 28  # numbers that a layer may put out for one photo: a gigabyte in float32
DO_NOT_FIT = "its weights do not fit its network"
UNINITIALIZED = "uninitialized_variables"  # Keras's list of variables that have no memory yet


def refuse_many_calls(config):
    """Raise Refused where building a network would take longer than a network does."""
    count = calls_in(config)
    if count > MOST_CALLS:
        times = f"{count:,} times" if count < 1e9 else "more than a billion times"
        raise Refused(f"it calls layers {times}; expected {MOST_CALLS:,} at most")


def calls_in(value):
    """How many times a configuration has Keras call a layer; a network in it counts with all of its own, each time."""
    if isinstance(value, list):
        return sum(map(calls_in, value))
    if not isinstance(value, dict):
        return 0
    inside = sum(calls_in(part) for key, part in value.items() if key != "inbound_nodes")
    if not isinstance(value.get("class_name"), str) or value["class_name"] in DATA:
        return inside
    return (1 + inside) * max(1, len(value.get("inbound_nodes") or ()))


@contextlib.contextmanager
def without_memory():
    """Variables made in this context have shapes and no memory, until `give_memory`."""
    before = global_state.get_global_attribute(UNINITIALIZED)
    global_state.set_global_attribute(UNINITIALIZED, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(UNINITIALIZED, before or [])


def give_memory(network, shapes):
    """Give the variables of a network their memory, where a file holds as many numbers and no layer puts out too many.

    Args:
        network: keras.Model, made `without_memory`.
        shapes: list of tuple of int, of the arrays of the file.

    Raises:
        Refused: the file holds fewer, or a layer would put out more than LARGEST_OUTPUT.
    """
    needed, held = (sum(map(math.prod, all_of)) for all_of in ([one.shape for one in network.weights], shapes))
    if needed > max(held, FEW):  # for fewer the weights themselves say what is missing
        raise Refused(f"{DO_NOT_FIT} (which has {needed:,} numbers; the file holds {held:,})")
    for name, shape in outputs_of(network):
        if math.prod(shape) > LARGEST_OUTPUT:
            size = "x".join(map(str, shape))
            raise Refused(
                f"its layer {name[:40]!r} puts out {size} for each photo; expected {LARGEST_OUTPUT:,} numbers at most"
            )
    for variable in network.variables:
        variable._deferred_initialize()


def outputs_of(network):
    """The outputs of all layers of a network, also of those in networks in it: (name, shape without what is open)."""
    for operation in getattr(network, "operations", network.layers):
        if isinstance(operation, keras.Model):
            yield from outputs_of(operation)
        for node in operation._inbound_nodes:
            for output in node.output_tensors:
                yield operation.name, [side for side in output.shape if side is not None]
