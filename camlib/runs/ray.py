"""Engines: who does the work of a run. This process does by default, or workers of Ray on one machine or a cluster.

Ray is asked for by the user alone, and imported then; it is in requirements-cluster.txt.
"""

import importlib
import importlib.util
import logging
import os
import pickle
import socket
import warnings

from camlib.console import UserError, counted, first_line

BATCHES_AT_ONCE = 8  # of a worker's task: while one is written the next is read; a killed worker does them again
TASKS_PER_WORKER = 4  # at least, so that no worker waits long for the last
RETRIES = 3  # of a task whose worker died, before the photos are taken for the reason
SECONDS_TO_ANSWER = 10  # for a cluster
STORE_BYTES = 256 * 2**20  # of the object store on this machine, where names of photos and numbers pass


def check_machine_options(parser, settings):
    """End with an error where the options of shards and engines do not fit one another, or Ray is not installed."""
    if settings.shard and settings.overwrite and not settings.store:
        parser.error("--overwrite with --shard would remove what other shards wrote; expected another --output")
    if settings.engine != "ray":
        given = [name for name in ("address", "workers") if getattr(settings, name) is not None]
        if given:
            parser.error(f"--{given[0]} without --engine ray; expected both, or neither")
        return
    if settings.shard:
        parser.error("--shard with --engine ray, which deals the photos itself; expected one of the two")
    if settings.store:
        parser.error("--store with --engine ray, whose workers write files; expected one of the two, or --shard with a "
                     "--store for each")  # fmt: skip
    parser.require(settings, workers=1)
    if importlib.util.find_spec("ray") is None:
        parser.error("Ray is not installed; expected what pip install -r requirements-cluster.txt installs")


def engine_of(script, settings, work):
    """Who does the work of a run, for `camlib.runs.run.MapRun.make`.

    Args:
        script: str, the name of a script's module, whose `prepared(settings, worker=True)` gives the Work to workers.
        settings: Namespace, the user's.
        work: Work of this process.

    Returns:
        None for this process, or a function of photos that yields Finished.
    """
    if settings.engine != "ray":
        return None
    return lambda photos: finished_by_ray(script, settings, photos, work.batch_size)


def finished_by_ray(script, settings, photos, batch_size):
    """Deal batches of photos to workers of Ray Data, one for each GPU or core, and give what they did, in order.

    Args:
        script, settings: as for `engine_of`.
        photos: list of Photo.
        batch_size: int, photos of one batch, the same as one process alone would make.

    Yields:
        Finished.

    Raises:
        UserError: Ray cannot start, or workers died again and again; or what a worker raised.
    """
    if not photos:
        return
    ray = begin_ray(settings.address)
    try:
        resource, workers = workers_of(ray.cluster_resources(), settings.workers)
        batches = [photos[first : first + batch_size] for first in range(0, len(photos), batch_size)]
        workers = min(workers, len(batches))
        print(f"Ray: {counted(workers, 'worker')}, one for each {resource}", flush=True)
        tasks = max(len(batches) // BATCHES_AT_ONCE, min(len(batches), TASKS_PER_WORKER * workers))
        data = ray.data.from_items([{"photos": pickle.dumps(batch)} for batch in batches], override_num_blocks=tasks)
        with warnings.catch_warnings():  # from 2.64 on Ray names the settings of an actor otherwise
            warnings.simplefilter("ignore")
            results = data.map_batches(
                Worker,
                batch_size=None,  # all batches of a task
                compute=ray.data.ActorPoolStrategy(size=workers),
                fn_constructor_args=(script, settings, os.getcwd(), os.environ.get("KERAS_BACKEND")),
                max_restarts=-1,  # machines may come and go
                max_task_retries=RETRIES,
                **({"num_gpus": 1} if resource == "GPU" else {"num_cpus": 1}),
            )
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise UserError(
            f"workers of Ray ended {RETRIES + 1} times on the same photos, or as they began ({first_line(error)}); "
            "expected more memory for each: fewer --workers, or a smaller --batch-size; the same command goes on"
        ) from None
    finally:
        ray.shutdown()


def begin_ray(address):
    """Connect to a cluster, or start Ray on this machine alone; returns the module ray with ray.data.

    Args:
        address: str, or None: that of the job which `ray job submit` started, else this machine.

    Raises:
        UserError: there is no cluster at the address, or its versions are others.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it warns of each actor that may be restarted
    import ray
    import ray.data

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    alone = {"include_dashboard": False, "object_store_memory": STORE_BYTES} if address == "local" else {}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address not in ("local", "auto"):  # Ray itself tries for ten minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **alone)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:  # OSError: ConnectionError, names unknown
        raise UserError(
            f"Ray cannot begin at {address} ({first_line(error)}); expected --address of a running cluster, HOST:6379, "
            "with the same versions of Ray and Python, or none for this machine"
        ) from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    return ray


def workers_of(resources, wanted=None):
    """What a worker has for itself, "GPU" or "core", and how many workers there are.

    Args:
        resources: dict of a cluster's resources.
        wanted: int, or None for as many as there can be.

    Raises:
        UserError: there are not as many as wanted.
    """
    resource = "GPU" if resources.get("GPU", 0) >= 1 else "core"
    most = int(resources.get("GPU" if resource == "GPU" else "CPU", 0))
    if not most or (wanted or 0) > most:
        raise UserError(f"--workers {wanted or 1}: Ray has {counted(most, resource)}; expected one for each worker, or "
                        "a larger cluster")  # fmt: skip
    return resource, wanted or most


class Worker:
    """A process that Ray started: it loads the network once, and then does the photos that it is brought.

    Args:
        script, settings: as for `engine_of`.
        folder: str, where the user gave the command; paths are meant from there.
        backend: str, the user's KERAS_BACKEND, or None.
    """

    def __init__(self, script, settings, folder, backend):
        self.settings, self.error = settings, None
        if backend:
            os.environ["KERAS_BACKEND"] = backend
        try:
            os.chdir(folder)
            self.work = importlib.import_module(script).prepared(settings, worker=True)
        except (UserError, OSError) as error:
            self.error = self.in_words(error)

    def in_words(self, error):
        """An error of the user's to mend, with the machine that it is of."""
        return UserError(f"{error} (on {socket.gethostname()})")

    def __call__(self, rows):
        """Do the photos of some batches.

        Args:
            rows: dict of "photos" -> array of bytes, a pickled list of Photo for each batch.

        Yields:
            dict of "result" -> list of bytes: a pickled Finished, or the UserError that ends the run.
        """
        photos = [photo for batch in rows["photos"] for photo in pickle.loads(batch)]
        error = self.error
        try:
            if not error:
                for finished in self.work.finished(photos):
                    yield {"result": [pickle.dumps(finished)]}
        except (UserError, OSError) as raised:
            error = self.in_words(raised)
        if error:
            yield {"result": [pickle.dumps(error)]}
