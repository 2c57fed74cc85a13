"""The only file that knows whether Keras runs on TensorFlow or JAX: gradients, compiled functions, devices."""

import contextlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from camlib.console import UserError, first_line, open_closed_streams
from camlib.files import refuse_no_file


@contextlib.contextmanager
def quiet_start():
    """Keep TensorFlow's start-up lines off the screen; no setting of its own does, since they precede its logging.

    They are useful where a GPU is not found: set TF_CPP_MIN_LOG_LEVEL=0 to see them. Python's errors always show.
    """
    open_closed_streams()  # of a daemon that imports camlib
    wanted = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    if wanted == "0":
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = wanted or "2"
    screen = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        if wanted is None:
            del os.environ["TF_CPP_MIN_LOG_LEVEL"]


class CannotStart(UserError, ImportError):
    """Keras cannot be used: a script says so in one line, whoever imports this file gets an ImportError."""


SETTINGS = Path(os.environ.get("KERAS_HOME", os.path.expanduser("~/.keras")), "keras.json")  # as Keras: HOME may lack


def reason_not_to_start(error):
    """What keeps Keras from starting, in words."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("keras", "tensorflow"):
        return f"{error.name} is not installed; expected what pip install -r requirements.txt installs"
    return (
        f"Keras cannot start ({first_line(error)}); expected the backend tensorflow or jax in KERAS_BACKEND or "
        f"{SETTINGS}, and in that file what Keras knows"
    )


try:
    if SETTINGS.exists():
        refuse_no_file(SETTINGS)  # Keras would wait for what a pipe never says
    with quiet_start():
        import keras

        BACKEND = keras.backend.backend()
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices()
        elif BACKEND == "jax":
            import jax
            from jax.experimental import multihost_utils
            from jax.interpreters.partial_eval import dce_jaxpr
        else:
            raise ImportError(f"the backend {BACKEND} has no gradients here")
except Exception as error:  # Keras raises various ones: of an unknown backend, of a damaged keras.json
    raise CannotStart(reason_not_to_start(error)) from error

logging.getLogger("absl").setLevel(logging.ERROR)  # Keras warns at each .h5 that it saves


# ---------------------------------------------------------------- the user's settings of Keras


@contextlib.contextmanager
def usual_settings():
    """Keras's own defaults in this context, whatever keras.json or the user's code say; networks are built and run so.

    Keras reads them where a layer is made, and a file need not hold them; some layers (Rescaling) ask at each call.
    """
    config = keras.config
    before = config.image_data_format(), config.floatx(), config.epsilon(), config.dtype_policy()
    settings = (config.set_image_data_format, config.set_floatx, config.set_epsilon, config.set_dtype_policy)
    try:
        for setting, value in zip(settings, ("channels_last", "float32", 1e-7, "float32"), strict=True):
            setting(value)
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting(value)


@contextlib.contextmanager
def exchanged(values):
    """Let each (owner, name) have another value in this context, past any __setattr__ of the owner's."""

    def assign(values):
        for (owner, name), value in values.items():
            (type if isinstance(owner, type) else object).__setattr__(owner, name, value)

    before = {(owner, name): vars(owner)[name] for owner, name in values}
    try:
        assign(values)
        yield
    finally:
        assign(before)


# ---------------------------------------------------------------- programs and gradients


def compiled(function, network):
    """Compile a function of tensors that runs a network; it is traced once for each new shape of its arguments.

    The network's weights are read at each call. AutoGraph is off: nothing here branches on a tensor's value, Keras
    leaves it off in layers, too, and rewriting our functions for it took two seconds of each start. XLA is left to
    JAX, since on the CPU it is slower than TensorFlow's own kernels, except for networks with grouped convolutions,
    whose gradients those kernels lack.
    """
    function = usual_settings()(function)
    if BACKEND == "tensorflow":
        convolutions = (layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.Conv2D))
        with_xla = any(layer.groups > 1 for layer in convolutions)
        return tf.function(function, autograph=False, jit_compile=with_xla or None)

    @jax.jit
    def run(values, *arguments):  # values as arguments: as constants they would be compiled into the program
        with keras.StatelessScope(zip(network.variables, values, strict=True)):
            return function(*arguments)

    return lambda *arguments: run([variable.value for variable in network.variables], *arguments)


def widened(values):
    """A tensor in float32 at least: half precision is widened, float64 stays what it is."""
    dtype = "float64" if keras.backend.standardize_dtype(values.dtype) == "float64" else "float32"
    return keras.ops.cast(values, dtype)


def with_gradient(forward, gradient):
    """The function x -> forward(x) with the gradient gradient(x, u) = u^T df/dx instead of its own.

    `gradient` is called when a gradient is taken, once for each.
    """
    if BACKEND == "tensorflow":
        return tf.custom_gradient(lambda x: (forward(x), lambda u: gradient(x, u)))
    function = jax.custom_vjp(forward)
    function.defvjp(lambda x: (forward(x), x), lambda x, u: (gradient(x, u),))
    return function


def differentiate(function, x):
    """Run y = f(x), which passes through intermediate tensors a, once, and keep what all gradients need.

    Args:
        function: (x, tap) -> (y, others); it hands each a to `tap(name, a)` and goes on with what that returns.
        x: tensor.

    Returns:
        (y, others, a, pull_to_a, pull_to_x): a is a dict by name; for any u of y's shape, as often as wanted,
        pull_to_a(u) = u^T dy/da, a dict too, and pull_to_x(u) = u^T dy/dx.
    """
    kept = {}

    def keep(name, a):
        kept[name] = a
        return a

    if BACKEND == "tensorflow":
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            y, others = function(x, keep)

        def pull_to(source):
            return lambda u: tape.gradient(y, source, u, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        return y, others, kept, pull_to(kept), pull_to(x)

    shapes = jax.eval_shape(lambda x: (function(x, keep)[0], kept)[1], x)
    zeros = {name: jax.numpy.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}

    def shifted(x, shifts):  # dy/dshift at zero is dy/da
        kept.clear()
        y, others = function(x, lambda name, a: keep(name, a) + shifts[name])
        return y, (others, dict(kept))

    y, pull, (others, a) = jax.vjp(shifted, x, zeros, has_aux=True)
    return y, others, a, lambda u: pull(u)[1], lambda u: pull(u)[0]


# ---------------------------------------------------------------- activations


def relus_of_backend(relu):
    """Stand-ins for the backend's own ReLUs that end in relu(x, negative_slope=, max_value=), by (module, name)."""
    if BACKEND == "tensorflow":
        return {
            (tf.nn, "relu"): lambda features, name=None: relu(features),
            (tf.nn, "relu6"): lambda features, name=None: relu(features, max_value=6),
            (tf.nn, "leaky_relu"): lambda features, alpha=0.2, name=None: relu(features, negative_slope=alpha),
        }
    return {
        (jax.nn, "relu"): lambda x: relu(x),
        (jax.nn, "relu6"): lambda x: relu(x, max_value=6),
        (jax.nn, "leaky_relu"): lambda x, negative_slope=0.01: relu(x, negative_slope=negative_slope),
    }


def activations_of_backend(other):
    """Stand-ins other(kind, function) for the backend's own softmax and sigmoid, by (module, name)."""
    nn = tf.nn if BACKEND == "tensorflow" else jax.nn
    places = [(nn, "softmax"), (nn, "log_softmax"), (nn, "sigmoid")]
    if BACKEND == "tensorflow":
        places += [(tf.math, "sigmoid"), (tf, "sigmoid")]
    return {(module, name): other(name, getattr(module, name)) for module, name in places}


def named(name):
    """A context whose operations carry a name in traced programs."""
    return tf.name_scope(name) if BACKEND == "tensorflow" else jax.named_scope(name)


@contextlib.contextmanager
def inlined_functions():
    """Let compiled functions inside others run anew as part of them, not as they were compiled before."""
    if BACKEND == "jax":
        with jax.disable_jit():
            yield
        return
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def traced(function, shape):
    """Trace a function of a float32 tensor of that shape, without running it."""
    function = usual_settings()(function)
    if BACKEND == "tensorflow":
        return tf.function(function, autograph=False).get_concrete_function(tf.TensorSpec(shape, tf.float32)).graph
    return jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, "float32")).jaxpr


def depends_on(tensor):
    """The function of a tensor -> bool, whether it was made from the one given; asked while that is traced."""
    if BACKEND == "jax":  # where a gradient is traced, what does not depend on its input is of another kind
        return lambda one: isinstance(one, type(tensor))
    made, left = {id(tensor.op)}, [tensor]
    while left:
        for operation in left.pop().consumers():
            if id(operation) not in made:
                made.add(id(operation))
                left += operation.outputs
    return lambda one: hasattr(one, "graph") and id(one.op) in made


# What only shows or passes on another value, without memory of its own
TENSORFLOW_VIEWS = set("Identity IdentityN Reshape ReadVariableOp Placeholder Const Squeeze ExpandDims Shape".split())
JAX_VIEWS = {"reshape", "squeeze", "expand_dims", "copy", "convert_element_type"}


def sizes_in(program):
    """(bytes of the inputs, bytes of the results) of each operation of a traced program that takes memory: a list."""
    return tensorflow_sizes(program) if BACKEND == "tensorflow" else jax_sizes(program)


def tensorflow_sizes(graph):
    def bytes_of(tensors):
        known = [tensor for tensor in tensors if tensor.shape.is_fully_defined() and tensor.dtype.is_floating]
        return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in known)

    return [
        (bytes_of(operation.inputs), bytes_of(operation.outputs))
        for operation in graph.get_operations()
        if operation.type not in TENSORFLOW_VIEWS
    ]


def jax_sizes(program):
    def bytes_of(values):
        return sum(value.aval.size * value.aval.dtype.itemsize for value in values if hasattr(value.aval, "dtype"))

    sizes = []
    for equation in program.eqns:
        inner = [] if equation.primitive.name == "custom_jvp_call" else inner_programs(equation)
        for part in inner:
            sizes += jax_sizes(part)
        if not inner and equation.primitive.name not in JAX_VIEWS:
            sizes.append((bytes_of(equation.invars), bytes_of(equation.outvars)))
    return sizes


# How activations appear in a traced program. A ReLU in a network's own code appears as a comparison with 0
TENSORFLOW_ACTIVATIONS = set("Relu Relu6 LeakyRelu Elu Selu Sigmoid Tanh Softplus Softsign Erf Erfc".split())
JAX_ACTIVATIONS = {"relu", "logistic", "tanh", "erf", "erfc", "expm1", "logaddexp"}
# JAX keeps the gradients inside these from one time to the next: they cannot be exchanged there
JAX_REPLAYED = {"checkpoint", "cond", "remat", "remat2", "scan", "while"}
TENSORFLOW_CUTS, JAX_CUTS = {"Maximum", "Minimum", "ClipByValue"}, {"max", "min", "clamp"}
TENSORFLOW_CHOICES, JAX_CHOICES = {"SelectV2", "Select"}, {"select_n"}


def activation_operations(program, known):
    """The activations that the result of a traced program depends on.

    Args:
        program: as `traced` makes it.
        known: str, name of the scopes whose operations are left out.

    Returns:
        list of (place, operation), each a str; the place is the backend's own name of it.
    """
    found = tensorflow_operations(program) if BACKEND == "tensorflow" else jax_operations(program, known)
    return [(place, kind) for place, kind in found if known not in place]


def tensorflow_operations(graph):
    def is_zero(tensor):
        value = tf.get_static_value(tensor)
        return value is not None and value.size > 0 and not value.any()

    def is_activation(operation):
        asked = operation.inputs
        if operation.type in TENSORFLOW_CHOICES:  # where(x > 0, x, ...)
            asked = asked[0].op.inputs
        elif operation.type not in TENSORFLOW_CUTS:
            return operation.type in TENSORFLOW_ACTIVATIONS
        return any(map(is_zero, asked))

    seen, left = {}, [tensor.op for tensor in graph.outputs]
    while left:  # from the result backwards
        operation = left.pop()
        if operation.name not in seen:
            seen[operation.name] = operation
            left += [tensor.op for tensor in operation.inputs]
    return [(place, operation.type) for place, operation in seen.items() if is_activation(operation)]


def inner_programs(equation):
    """The programs that an operation runs: functions, branches, bodies of loops."""
    parts = [part for value in equation.params.values() for part in (value if isinstance(value, tuple) else [value])]
    return [getattr(part, "jaxpr", part) for part in parts if hasattr(getattr(part, "jaxpr", part), "eqns")]


def mentions(program, scope):
    """Whether an operation of a program, or of one inside it, is in a scope of that name."""
    return any(
        scope in str(equation.source_info.name_stack) or any(mentions(part, scope) for part in inner_programs(equation))
        for equation in program.eqns
    )


def jax_operations(program, known):
    found = []

    def is_zero(value, makers):
        if hasattr(value, "val"):  # a literal
            return not jax.numpy.any(value.val)
        maker = makers.get(id(value))
        return maker is not None and maker.primitive.name == "broadcast_in_dim" and is_zero(maker.invars[0], makers)

    def is_activation(equation, name, makers):
        asked = equation.invars
        if name in JAX_CHOICES:  # select(x > 0, ...)
            maker = makers.get(id(asked[0]))
            asked = maker.invars if maker else []
        elif name not in JAX_CUTS:
            return name in JAX_ACTIVATIONS
        return any(is_zero(value, makers) for value in asked)

    def visit(program, outer):
        makers = {id(value): equation for equation in program.eqns for value in equation.outvars}
        for equation in program.eqns:
            place, name = f"{outer}/{equation.source_info.name_stack}", equation.primitive.name
            inner = inner_programs(equation)
            if name == "custom_jvp_call":
                name = inner[0].debug_info.func_name
            replayed = name in JAX_REPLAYED and any(mentions(part, known) for part in inner)
            if replayed or is_activation(equation, name, makers):
                found.append((place.lstrip("/"), name))
            else:
                for part in inner:
                    visit(part, place)

    visit(dce_jaxpr(program, [True] * len(program.outvars))[0], "")
    return found


# ---------------------------------------------------------------- devices


class Share(NamedTuple):
    """Which part of each batch this process makes, and among how many devices it is shared out in equal parts.

    Attributes:
        host: int, the number of this process, from 0.
        hosts: int.
        devices: int, of all hosts; 1 where the backend divides what it is given by itself.
    """

    host: int = 0
    hosts: int = 1
    devices: int = 1

    def own(self, batch):
        """This process's part of a batch, what has a length that the number of hosts divides."""
        size = len(batch) // self.hosts
        return batch[self.host * size : (self.host + 1) * size]


ALONE = Share()


def share():
    """The Share of this process."""
    if BACKEND == "jax":
        return Share(jax.process_index(), jax.process_count(), jax.device_count())
    return ALONE


def local_device_count():
    """Number of this process's devices on JAX."""
    return jax.local_device_count()


def gathered(values):
    """The values of each host, small whole numbers of one shape: an array (hosts, ...)."""
    return multihost_utils.process_allgather(np.array(values, np.int32))


def device_name():
    """What the networks run on, for the user: "CPU", or the GPU's own name."""
    if BACKEND == "jax":
        return jax.devices()[0].device_kind if jax.default_backend() != "cpu" else "CPU"
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"


def leave_gpus():
    """Compute on the CPU in this process, and leave the GPUs to others, which could not share them."""
    if BACKEND == "jax":
        jax.config.update("jax_platforms", "cpu")
    else:
        tf.config.set_visible_devices([], "GPU")


def all_devices():
    """A context: a network built and fitted in it shares each batch among all GPUs of the machine, or of all hosts."""
    count = jax.device_count() if BACKEND == "jax" else len(tf.config.list_logical_devices("GPU"))
    if count <= 1:
        return contextlib.nullcontext()
    if BACKEND == "tensorflow":
        return tf.distribute.MirroredStrategy().scope()
    return keras.distribution.DataParallel(auto_shard_dataset=False).scope()


def device_memory():
    """Bytes that are free on an accelerator, infinity where the backend does not say; None on a CPU."""
    if device_name() == "CPU":
        return None
    found = (jax.local_devices()[0].memory_stats() or {}) if BACKEND == "jax" else {}
    return found["bytes_limit"] - found.get("bytes_in_use", 0) if "bytes_limit" in found else float("inf")


def has_float64():
    """Whether Keras computes in float64: on JAX its operations make float32 of it, whatever JAX is told."""
    return BACKEND == "tensorflow"


def fast_half_precision():
    """The half precision that this machine's device computes fast: "bfloat16", "float16" or None.

    NVIDIA GPUs: float16 from compute capability 7, bfloat16 from 8. x86 processors: AVX512-BF16 or AMX, known on Linux
    only.
    """
    if BACKEND == "jax" and jax.default_backend() != "cpu":
        capability = float(getattr(jax.devices()[0], "compute_capability", 8))  # TPUs have none and like bfloat16
    elif BACKEND == "tensorflow" and (gpus := tf.config.list_physical_devices("GPU")):
        major, minor = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        capability = major + minor / 10
    else:
        cpu = Path("/proc/cpuinfo")
        known = cpu.exists() and any(flag in cpu.read_text() for flag in ("avx512_bf16", "amx_bf16"))
        return "bfloat16" if known else None
    return "bfloat16" if capability >= 8 else "float16" if capability >= 7 else None
