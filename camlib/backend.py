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


def compiled(function):
    """Compile a function of tensors; it is traced once for each new shape of its arguments.

    XLA is left to JAX: on the CPU it is slower than TensorFlow's own kernels.
    """
    return tf.function(function) if BACKEND == "tensorflow" else jax.jit(function)


def value_and_pullback(function, x):
    """Evaluate y = f(x) and keep what its gradient needs.

    Args:
        function: tensor -> tensor.
        x: tensor or array.

    Returns:
        (y, pullback): pullback(u) = u^T df/dx, of x's shape, for any u of y's shape, as often as wanted; the forward
        pass is not run again.
    """
    if BACKEND == "jax":
        y, pullback = jax.vjp(function, x)
        return y, lambda u: pullback(u)[0]
    x = tf.convert_to_tensor(x)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return y, lambda u: tape.gradient(y, x, output_gradients=u)


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
