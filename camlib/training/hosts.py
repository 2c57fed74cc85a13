"""Training on several hosts: who is the first, that all go on or none does, and that only the first writes."""

import contextlib
import hashlib
import json
import os

import keras

from camlib.backend import BACKEND, gathered, local_device_count, share
from camlib.console import UserError, first_line


@contextlib.contextmanager
def joined_hosts(args):
    """Be one of the hosts of a training in this context, which yields its Share; alone without --host.

    What the others than the first print is lost, since it is the same.

    Args:
        args: with host, (number, hosts) or None, coordinator and seed.

    Raises:
        UserError: Keras does not run on JAX, or the hosts do not find one another.
    """
    if args.host is None:
        yield share()
        return
    number, hosts = args.host
    if BACKEND != "jax":
        raise UserError(f"--host: found Keras on {BACKEND}; expected it on JAX, with KERAS_BACKEND=jax on each host")
    keras.utils.set_random_seed(args.seed)  # so that Keras does not draw one for all hosts
    try:
        keras.distribution.initialize(args.coordinator, hosts, number)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"host {number} of {hosts} did not find the others at {args.coordinator} ({first_line(error)}); "
            "expected the address of host 0, and the same command on every host at about the same time"
        ) from error
    with contextlib.ExitStack() as stack:
        if number:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield share()


@contextlib.contextmanager
def together(own):
    """Leave this context on all hosts or on none: where one of them has an error of its user's, all end.

    Args:
        own: Share.
    """
    if own.hosts == 1:
        yield
        return
    error = None
    try:
        yield
    except (UserError, OSError) as raised:
        error = raised
    failed = gathered(error is not None)
    if error:
        raise error
    if failed.any():
        raise UserError(f"host {failed.argmax()} of {own.hosts} cannot go on, and says why; expected all of them to")


def first_before_others(own, work):
    """What `work(is_first)` returns on this host; the others read what the first has written, so they begin after it.

    Args:
        own: Share.
        work: function of whether this is the first host.
    """
    for turn in (True, False):
        with together(own):
            if turn == (own.host == 0):
                done = work(turn)
    return done


def check_hosts_agree(own, what):
    """Refuse to train where the hosts do not have the very same args and photos, a dict by name.

    Raises:
        UserError: with the names of what differs.
    """
    if own.hosts == 1:
        return
    what = what | {"number of devices": local_device_count()}
    with together(own):
        digests = [int(hashlib.sha256(json.dumps(value).encode()).hexdigest()[:6], 16) for value in what.values()]
        found = gathered(digests)  # (hosts, names)
        differing = [name for name, column in zip(what, found.T, strict=True) if (column != column[0]).any()]
        if differing:
            raise UserError(
                f"the hosts differ in {', '.join(differing)}; expected the same command, --data and --output on a "
                "file system that all of them see"
            )
