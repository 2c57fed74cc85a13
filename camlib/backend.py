"""The only file that knows whether Keras runs on TensorFlow or JAX: gradients, compiled functions, devices."""

import contextlib
import logging
import os
from pathlib import Path


@contextlib.contextmanager
def quiet_start():
    """Keep TensorFlow's start-up lines off the screen; no setting of its own does, since they precede its logging.

    They are useful where a GPU is not found: set TF_CPP_MIN_LOG_LEVEL=0 to see them. Python's errors always show.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    screen = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        del os.environ["TF_CPP_MIN_LOG_LEVEL"]


with quiet_start():
    import keras

    BACKEND = keras.backend.backend()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.list_physical_devices()
    elif BACKEND == "jax":
        import jax
    else:
        raise ImportError(f"KERAS_BACKEND={BACKEND} is not supported; expected tensorflow or jax")

logging.getLogger("absl").setLevel(logging.ERROR)  # Keras warns at each .h5 that it saves


def compiled(function, network):
    """Compile a function of tensors that runs a network; it is traced once for each new shape of its arguments.

    The network's weights are read at each call. XLA is left to JAX: on the CPU it is slower than TensorFlow's own
    kernels.
    """
    if BACKEND == "tensorflow":
        return tf.function(function)

    @jax.jit
    def run(values, *arguments):  # values as arguments: as constants they would be compiled into the program
        with keras.StatelessScope(zip(network.variables, values, strict=True)):
            return function(*arguments)

    return lambda *arguments: run([variable.value for variable in network.variables], *arguments)


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
    """Run y = f(x), which passes through an intermediate tensor a, once, and keep what both gradients need.

    Args:
        function: (x, tap) -> (y, others); it hands a to `tap` and goes on with what that returns.
        x: tensor.

    Returns:
        (y, others, a, pull_to_a, pull_to_x): for any u of y's shape, as often as wanted, pull_to_a(u) = u^T dy/da and
        pull_to_x(u) = u^T dy/dx.
    """
    kept = []
    if BACKEND == "tensorflow":
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            y, others = function(x, lambda a: kept.append(a) or a)

        def pull_to(source):
            return lambda u: tape.gradient(y, source, u, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        return y, others, kept[-1], pull_to(kept[-1]), pull_to(x)

    jax.eval_shape(lambda x: function(x, lambda a: kept.append(a) or a)[0], x)
    zero = jax.numpy.zeros(kept[-1].shape, kept[-1].dtype)

    def shifted(x, shift):  # dy/dshift at zero is dy/da
        kept.clear()
        y, others = function(x, lambda a: kept.append(a) or a + shift)
        return y, (others, kept[-1])

    y, pull, (others, a) = jax.vjp(shifted, x, zero, has_aux=True)
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


# How activations appear in a traced program
OPERATIONS = {
    "tensorflow": {
        "Relu",
        "Relu6",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Softsign",
        "Erf",
        "Erfc",
    },
    "jax": {"relu", "logistic", "tanh", "erf", "erfc", "expm1", "logaddexp"},
}[BACKEND]


def activation_operations(function, shape):
    """Trace a function without running it and find the activations that its result depends on.

    Args:
        function: tensor -> tensor.
        shape: of its argument, float32.

    Returns:
        list of (place, operation), each a str; the place is the backend's own name of it.
    """
    return (tensorflow_operations if BACKEND == "tensorflow" else jax_operations)(function, shape)


def tensorflow_operations(function, shape):
    graph = tf.function(function).get_concrete_function(tf.TensorSpec(shape, tf.float32)).graph
    seen, left = {}, [tensor.op for tensor in graph.outputs]
    while left:  # from the result backwards
        operation = left.pop()
        if operation.name not in seen:
            seen[operation.name] = operation.type
            left += [tensor.op for tensor in operation.inputs]
    return [(place, kind) for place, kind in seen.items() if kind in OPERATIONS]


def jax_operations(function, shape):
    program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(shape, "float32")).jaxpr
    found, needed = [], set(map(id, program.outvars))

    def visit(equation, place):
        inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
        name = equation.primitive.name
        if name == "custom_jvp_call":
            name = inner[0].debug_info.func_name
        if name in OPERATIONS:
            found.append((place, name))
            return
        for program in inner:
            for part in program.eqns:
                visit(part, place)

    for equation in reversed(program.eqns):  # from the result backwards
        if needed & set(map(id, equation.outvars)):
            needed |= set(map(id, equation.invars))
            visit(equation, str(equation.source_info.name_stack))
    return found


# ---------------------------------------------------------------- devices


def device_count():
    """Number of GPUs, or of the devices that stand in for them; at least 1."""
    if BACKEND == "jax":
        return jax.local_device_count()
    return max(1, len(tf.config.list_logical_devices("GPU")))


def device_name():
    """What the networks run on, for the user: "CPU", or the GPU's own name."""
    if BACKEND == "jax":
        return jax.devices()[0].device_kind if jax.default_backend() != "cpu" else "CPU"
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU") if gpus else "CPU"


@contextlib.contextmanager
def all_devices():
    """Build and fit a network in this context to share each batch among all GPUs of the machine."""
    if device_count() == 1:
        yield
    elif BACKEND == "tensorflow":
        with tf.distribute.MirroredStrategy().scope():
            yield
    else:
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


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
