"""Training on several hosts: who is the first, that all go on or none does, and that only the first writes."""

import contextlib
import hashlib
import json
import os
import re
import socket
import time

import keras

from camlib.backend import BACKEND, gathered, local_device_count, share
from camlib.console import UserError, first_line, shortened_list

SECONDS_TO_MEET = 300
SECONDS_TO_SPEAK = 5  # of one that has come


def meet(address, number, hosts):
    """Wait until all hosts are there, since JAX ends a process without a word of ours where one does not come.

    Args:
        address: str, "ADDRESS:PORT" of host 0, which listens there for as long as this takes.
        number: int, this host's.
        hosts: int.

    Raises:
        UserError: one does not come in SECONDS_TO_MEET, or two say that they are the same.
    """
    place, port = address.rsplit(":", 1)
    deadline = time.monotonic() + SECONDS_TO_MEET
    if number == 0:
        welcome(int(port), hosts, deadline)
        return
    while True:
        try:
            with socket.create_connection((place, int(port)), max(1, deadline - time.monotonic())) as connection:
                connection.sendall(f"{number}/{hosts}".encode())
                if connection.recv(2) == b"go":
                    return
        except (OSError, OverflowError):
            pass  # host 0 may be slower
        if time.monotonic() > deadline:
            raise UserError(
                f"host {number} of {hosts} finds no host 0 that waits for it at {address}; expected its address there, "
                "a port that the network lets through, and the same command on every host at about the same time"
            )
        time.sleep(0.2)


def welcome(port, hosts, deadline):
    """Host 0's part of `meet`."""
    awaited, come = {f"{number}/{hosts}" for number in range(1, hosts)}, {}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
            while awaited:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(SECONDS_TO_SPEAK)
                with contextlib.suppress(OSError, UnicodeDecodeError):  # a stranger
                    word = connection.recv(32).decode()
                    if word in come or re.fullmatch("[0-9]+/[0-9]+", word) and word not in awaited:
                        raise UserError(
                            f"a host came as --host {word}; expected one each of {shortened_list(sorted(awaited))}"
                        )
                    if word in awaited:
                        awaited.remove(word)
                        come[word] = connection
        except TimeoutError as error:
            raise UserError(
                f"{shortened_list(sorted(awaited))} did not come within {SECONDS_TO_MEET} s; expected the same command "
                "on every host, but for --host, at about the same time"
            ) from error
        except (OSError, OverflowError) as error:
            raise UserError(f"host 0 cannot listen on port {port} ({error}); expected one that is free") from error
        for connection in come.values():
            connection.sendall(b"go")
            connection.recv(1)  # they close first, so that the port is free at once


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
    meet(args.coordinator, number, hosts)
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
    error = None
    try:
        yield
    except (UserError, OSError) as raised:
        if own.hosts == 1:
            raise
        error = raised
    if own.hosts == 1:
        return
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
