"""Workers of Ray that map the photos of a run, on this machine or a cluster.

Ray is asked for by the user alone, and imported then; it is in requirements-cluster.txt.
"""

import logging
import os
import pickle
import signal
import socket
import warnings

from camlib.console import ENDING_SIGNALS, STOP, UserError, counted, first_line
from camlib.runs.run import explain_photos
from camlib.runs.shards import read_record

BATCHES_AT_ONCE = 8  # of a worker's task: while one is written the next is read; a killed worker does them again
TASKS_PER_WORKER = 4  # at least, so that no worker waits long for the last
RETRIES = 3  # of a task whose worker died, before the photos are taken for the reason
SECONDS_TO_ANSWER = 10  # for a cluster
STORE_BYTES = 256 * 2**20  # of the object store on this machine, where names of photos and numbers pass


def explain_on_ray(load, run, batch_size, address=None, workers=None):
    """Deal batches of photos to workers of Ray Data, one for each GPU or core, and give what they did, in order.

    Args:
        load: function without arguments that loads the explainer, picklable: each worker calls it once.
        run: FolderRun, whose pending photos are mapped.
        batch_size: int, photos of one batch, the same as one process alone would make.
        address: str, HOST:PORT of a cluster; None for the one of this job, else this machine.
        workers: int, how many; None for as many as there can be.

    Yields:
        Finished.

    Raises:
        UserError: Ray cannot start, or workers died again and again; or what a worker raised.
    """
    photos = run.pending
    if not photos:
        return
    ray = begin_ray(address)
    try:
        resource, workers = workers_of(ray.cluster_resources(), workers)
        batches = [photos[first : first + batch_size] for first in range(0, len(photos), batch_size)]
        workers = min(workers, len(batches))
        print(f"Ray: {counted(workers, 'worker')}, one for each {resource}", flush=True)
        tasks = max(len(batches) // BATCHES_AT_ONCE, min(len(batches), TASKS_PER_WORKER * workers))
        data = ray.data.from_items([{"photos": pickle.dumps(batch)} for batch in batches], override_num_blocks=tasks)
        work = pickle.dumps((load, run.writer, batch_size))  # as bytes: the worker chooses Keras's backend first
        with warnings.catch_warnings():  # from 2.64 on Ray names the settings of an actor otherwise
            warnings.simplefilter("ignore")
            results = data.map_batches(
                Worker,
                batch_size=None,  # all batches of a task
                compute=ray.data.ActorPoolStrategy(size=workers),
                fn_constructor_args=(work, os.getcwd(), os.environ.get("KERAS_BACKEND")),
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
        if not STOP.signal:  # takes seconds; the system ends Ray's processes with this one
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
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
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
    for number, handler in handlers.items():  # Ray sets its own, which ends the process with another code
        signal.signal(number, handler)
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
        found = f"--workers {wanted or 1}: Ray has {counted(most, resource)}"
        raise UserError(f"{found}; expected one for each worker, or a larger cluster")
    return resource, wanted or most


class Worker:
    """A process that Ray started: it loads the network once, and then maps the photos that it is brought.

    Args:
        work: bytes, pickled: what loads the explainer, the writer, and how many photos are in a batch.
        folder: str, where the user gave the command; paths are meant from there.
        backend: str, the user's KERAS_BACKEND, or None.
    """

    def __init__(self, work, folder, backend):
        self.error = None
        if backend:
            os.environ["KERAS_BACKEND"] = backend
        try:
            os.chdir(folder)
            load, self.writer, self.batch_size = pickle.loads(work)
            if read_record(self.writer.output) is None:  # the first process has claimed it
                raise UserError(
                    f"{self.writer.output} is not to be seen by a worker; expected an --output that all machines share"
                )
            self.explainer = load()
        except (UserError, OSError) as error:
            self.error = self.in_words(error)

    def in_words(self, error):
        """An error of the user's to mend, with the machine that it is of."""
        return UserError(f"{error} (on {socket.gethostname()})")

    def kept(self, batches):
        """Yield each Finished when its maps are on the disk; of a store at the end, since a task may be done again."""
        waiting, whole = [], []
        for batch in batches:
            waiting.append(batch)
            if self.writer.is_full(waiting):
                whole, waiting = whole + self.writer.kept(waiting), []
            if not self.writer.place_columns:
                yield from whole
                whole = []
        yield from whole + self.writer.kept(waiting)

    def __call__(self, rows):
        """Map the photos of some batches.

        Args:
            rows: dict of "photos" -> array of bytes, a pickled list of Photo for each batch.

        Yields:
            dict of "result" -> list of bytes: a pickled Finished, or the UserError that ends the run.
        """
        photos = [photo for batch in rows["photos"] for photo in pickle.loads(batch)]
        error = self.error
        try:
            if not error:
                for finished in self.kept(explain_photos(self.explainer, self.writer, photos, self.batch_size)):
                    yield {"result": [pickle.dumps(finished)]}
        except (UserError, OSError) as raised:
            error = self.in_words(raised)
        if error:
            yield {"result": [pickle.dumps(error)]}
