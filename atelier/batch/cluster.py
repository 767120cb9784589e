"""Runs calls on the workers of a Dask cluster, here or on other machines, and repeats a call if its worker dies.

A call is a function of an importable module with its arguments (functools.partial), and its result is a small picklable
value. The toolkit, the folder where the command runs and all files have the same paths on every machine. Only this
module and worker_plugin.py use Dask.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import logging
import multiprocessing.resource_tracker
import os
import pathlib
import pickle
import signal
import sys
import threading
import time
import types
import typing
import warnings

import dask.system
import distributed

import config
from atelier import backend_choice, disk
from atelier.batch.worker_plugin import RESOURCE, ToolkitPlugin
from atelier.command_line import lazy_import
from atelier.errors import InputError, Interrupted, PartlyDone, describe

hardware = lazy_import("atelier.hardware")

TOOLKIT = config.ROOT


class WorkersDied(InputError):
    """Several workers died while they ran the same call. This exception is returned as the call's result."""


def versions():
    """Return the versions that must be equal on all machines, a dict: the toolkit's files, Keras and its backend.

    Raises InputError if the backend that this machine's user has chosen can't be used.
    """
    backend = backend_choice.choose()
    return {
        "this toolkit": TOOLKIT_CHECKSUM,
        "keras": installed_version("keras"),
        "the backend": f"{backend} {installed_version(backend)}",
    }


def installed_version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it may be installed under another name, such as tensorflow-cpu
        return "of unknown version"


def toolkit_checksum():
    digest = hashlib.sha256()
    for path in sorted([*TOOLKIT.glob("*.py"), *TOOLKIT.glob("atelier/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


TOOLKIT_CHECKSUM = toolkit_checksum()  # computed at import, since a worker keeps using the modules it has imported


# --- On a worker -------------------------------------------------------------------------------

# Calls run one at a time, since each uses all of a worker's cores and gigabytes of memory. They run in the same thread,
# since Keras stores its precision per thread.
THREAD = concurrent.futures.ThreadPoolExecutor(1)
CANCELLATIONS = {}  # from Dask's key to an Event, for each call that runs or waits in this process
CURRENT = types.SimpleNamespace(worker=None, session=None)  # the worker and session of the latest call in this process


def run_in_turn(session, call):
    """Run a pickled call of a session in THREAD, after the earlier calls; return its result."""
    worker = distributed.get_worker()
    key = worker.get_current_task()
    cancelled = CANCELLATIONS[key] = threading.Event()
    try:
        return THREAD.submit(run_call, worker, session, cancelled, call).result()
    finally:
        del CANCELLATIONS[key]


def run_call(worker, session, cancelled, call):
    if cancelled.is_set():
        raise Interrupted("the call was cancelled")
    disk.cancelled = cancelled
    hardware.use_cores(worker.state.nthreads)
    if CURRENT.session not in (None, session):
        clear_caches()
    CURRENT.worker, CURRENT.session = worker, session
    return pickle.loads(call)()


def cancel_calls(keys):
    """Prevent the calls with these keys from writing files, if they run or wait in this process."""
    for cancelled in filter(None, map(CANCELLATIONS.get, keys)):
        with disk.REPLACING:
            cancelled.set()


def clear_caches():
    """Clear the toolkit's caches. Their keys contain relative paths, which name other files for another command."""
    for name, module in [*sys.modules.items()]:
        path = pathlib.Path(getattr(module, "__file__", None) or "/")
        if name.partition(".")[0] == "atelier" or path.parent == TOOLKIT:
            for value in [*vars(module).values()]:
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def run_in_folder(folder, arguments, call):
    """Run a call in the command's folder and with the command's sys.argv, because pictures record sys.argv."""
    os.chdir(folder)
    sys.argv = arguments
    return call()


def find_refusal(folder, theirs, check):
    """Return why this worker cannot take part, or None; `theirs` are the command's versions, `check` a pickled call."""
    try:
        ours = versions()
        different = [f"{name} {ours[name]}, not {theirs[name]}" for name in ours if ours[name] != theirs[name]]
        if different:
            return f"it has {' and '.join(different)}; update and restart it"
        if not os.path.isdir(folder):
            return f"it does not see {folder}, where the command runs"
        os.chdir(folder)
        return pickle.loads(check)()
    except Exception as error:
        return describe(error)


def report_progress(amount):
    """Report to the command how much work the running call has done since the last report."""
    CURRENT.worker.log_event(CURRENT.session, amount)


# --- In the command ----------------------------------------------------------------------------

PATIENCE = 60  # seconds without a worker after which a command gives up; ten times as long while workers are checked
LOOK = 2  # seconds from one check of the list of workers to the next
POLL = 0.01  # seconds from one check for results to the next
CONNECT = 10  # seconds in which a scheduler must answer
IN_FLIGHT = 2  # calls per worker that are given to the scheduler: one that runs, and one that waits
HOW_TO_CONTINUE = "the same command goes on, for a training with --resume"
MAX_DEATHS = 3  # a call is given up after the scheduler has reported this many times that its workers died

# Dask's settings for --workers. docs/cluster.md names the settings that matter for a user's own cluster.
SETTINGS = {
    # When a worker dies, Dask also counts this as a failure of the call that waited there.
    "distributed.scheduler.allowed-failures": 5,
    # While a worker loads a network, Python's global lock may delay its heartbeats. Dask still notices at once that a
    # process has died, since its connection closes.
    "distributed.scheduler.worker-ttl": "10 minutes",
    # The profiler would interrupt the thread that runs the calls a hundred times a second.
    "distributed.worker.profile.enabled": False,
}


@contextlib.contextmanager
def open_session(options, check):
    """Yield the DaskSession of --scheduler, or of --workers processes on this machine.

    Each worker runs the call `check` first. It returns None, or a text that says what the worker lacks. Raises
    InputError if no scheduler answers, or if no worker can take part.
    """
    warnings.filterwarnings("ignore", category=distributed.versions.VersionMismatchWarning)
    for name in ["distributed", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "asyncio", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the session prints the messages that users need
    with contextlib.ExitStack() as stack:
        address = options.scheduler
        if address is None:
            address = stack.enter_context(open_processes(options.workers))
        client = stack.enter_context(connect(address))
        session = DaskSession(client, check, options.scheduler or "the processes on this machine", options.quiet)
        session.wait_for_worker()
        yield session


@contextlib.contextmanager
def open_processes(count):
    """Yield the address of a scheduler with `count` worker processes on this machine, which share its cores."""
    with dask.config.set(SETTINGS):
        with blocked_interrupts():
            processes = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=max(1, dask.system.CPU_COUNT // count),
                memory_limit=0,  # Dask would kill workers at its own limit
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        try:
            yield processes.scheduler_address
        finally:
            processes.close(timeout=10)


@contextlib.contextmanager
def blocked_interrupts():
    """Block Ctrl-C, so that threads and processes started in this context ignore it.

    A terminal sends Ctrl-C to all processes of a command, but here the command itself ends its workers. If Ctrl-C is
    pressed in this context, this process receives it at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # This silences the resource tracker's warnings about semaphores of killed processes. The tracker must start
    # before signals are blocked.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    multiprocessing.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def connect(address):
    """Yield a client of the scheduler at an address. Raises InputError if none answers."""
    if address.startswith("tls:") and not distributed.security.Security().get_connection_args("client")["ssl_context"]:
        raise InputError(f"{address} needs certificates; Dask's configuration names them under distributed.comm.tls")
    try:
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"no scheduler answers at {address} ({describe(error)[:200]})") from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=5)


@dataclasses.dataclass
class Task:
    """A call with its label, the number of reports that its workers died, and the workers that may run it now."""

    label: typing.Any
    call: typing.Callable
    deaths: int = 0
    workers: frozenset = frozenset()


class DaskSession:
    """A command's connection to a cluster: it checks the workers, and runs calls on those that pass.

    `workers` is the set of addresses of the workers that passed.
    """

    def __init__(self, client, check, place, quiet):
        self.client, self.place, self.quiet = client, place, quiet
        self.name = f"keras-atelier-{client.id}"  # also the topic of progress events
        self.check = functools.partial(find_refusal, os.getcwd(), versions(), pickle.dumps(check))
        self.completed = distributed.as_completed(loop=client.loop, with_results=True, raise_errors=False)
        self.checks, self.refusals = {}, {}  # by address: the future of the worker's check, and why it can't take part
        self.workers = set()
        self.done = 0
        self.started = self.looked = self.last_seen = time.monotonic()

    def wait_for_worker(self):
        """Check the workers, and wait for the first that passes. Raises InputError if there is none."""
        with contextlib.suppress(OSError):  # one of the workers does not answer
            self.client.register_plugin(ToolkitPlugin(TOOLKIT))
        self.look_at_workers()
        while not self.workers:
            time.sleep(POLL)
            self.next_results()
            self.look_at_workers(every=0.2)
        self.say(f"cluster: {self.place}, workers: {len(self.workers)}")

    def look_at_workers(self, every=0):
        """Check new workers, and forget those that left; do nothing within `every` seconds of the last call.

        Raises InputError, or PartlyDone after the first result, if the scheduler is gone or no worker takes part.
        """
        if time.monotonic() - self.looked < every:
            return
        self.looked = time.monotonic()
        info = self.client.scheduler_info(n_workers=-1)
        if self.client.status != "running":  # then the information may be old or empty
            raise self.scheduler_gone()
        known = info["workers"]
        self.workers &= known.keys()
        for address in self.checks.keys() - known.keys():
            self.client.cancel([self.checks.pop(address)])
            self.refusals.pop(address, None)
        for address in known.keys() - self.checks.keys():
            self.checks[address] = self.submit(self.check, priority=10, workers=[address])
        for address in known.keys() - self.workers - self.refusals.keys():
            if known[address]["status"] == "paused":
                self.refuse(address, "Dask has paused it because of its memory use; start it with --memory-limit 0")
        unchecked = known.keys() - self.refusals.keys()
        if self.workers:
            self.last_seen = self.looked
        elif self.looked - self.last_seen > PATIENCE * (10 if unchecked else 1) or (
            self.last_seen == self.started and known and not unchecked
        ):
            raise self.no_worker()

    def refuse(self, address, reason):
        self.refusals[address] = reason
        self.say(f"note: the worker {address} does not take part: {reason}")

    def no_worker(self):
        if self.refusals:
            return self.failure(f"no worker of {self.place} can take part: {[*self.refusals.values()][0]}")
        seconds = round(self.looked - self.last_seen)
        return self.failure(f"{self.place} had no worker for {seconds} s; start some; {HOW_TO_CONTINUE}")

    def scheduler_gone(self):
        return self.failure(f"the scheduler {self.place} went away; what is done is kept; {HOW_TO_CONTINUE}")

    def failure(self, message):
        return (PartlyDone if self.done else InputError)(message)

    def say(self, line):
        if not self.quiet:
            print(line, file=sys.stderr)

    def on_progress(self, function):
        """Call a function with each amount that calls pass to report_progress."""
        self.client.subscribe_topic(self.name, lambda event: function(event[1]))

    def submit(self, call, **more):
        """Give a call to the scheduler, and return its future.

        Raises InputError, or PartlyDone after the first result, if the scheduler is gone.
        """
        call = pickle.dumps(functools.partial(run_in_turn, self.name, pickle.dumps(call)))
        # A lambda is pickled as code. A reference to a function would fail in the scheduler, which cannot import it.
        try:
            future = self.client.submit(lambda call: pickle.loads(call)(), call, pure=False, **more)
        except distributed.client.ClosedClientError as error:
            raise self.scheduler_gone() from error
        self.completed.add(future)
        return future

    def next_results(self):
        """Return a list of (future, result) of the calls that are done; the result may be an exception.

        The results of checks are left out. This method uses them to update `workers` and `refusals`.
        """
        addresses, results = {future: address for address, future in self.checks.items()}, []
        for future, result in self.completed.next_batch(block=False):
            if future.status == "error":
                result = future.exception()
            if future not in addresses:
                results.append((future, result))
            elif result is None:
                self.workers.add(addresses[future])
            elif isinstance(result, str):
                self.refuse(addresses[future], result)
            elif future.status == "error":
                self.refuse(addresses[future], f"it cannot use the toolkit in {TOOLKIT} ({describe(result)})")
        return results

    def result(self, call):
        """Run one call, and return its result. Raises what it raises, or WorkersDied."""
        ((_, result),) = self.results([(None, call)])
        if isinstance(result, WorkersDied):
            raise result
        return result

    def room(self, waiting, running):
        """Return how many more calls may be given to the scheduler."""
        if not any(task.deaths for task in (*waiting, *running.values())):
            return len(self.workers) * IN_FLIGHT - len(running)
        # A call may have killed its workers. Until it is done, each worker gets only one call. Otherwise, a second
        # call might wait behind it, or on a worker that has died.
        if len(running) < len(self.workers):
            self.look_at_workers()
        return len(self.workers) - len(running)

    def results(self, calls):
        """Run calls, given as pairs (label, call): yield (label, result) when each is done, in any order.

        After MAX_DEATHS reports that the workers of a call died, its result is WorkersDied. Raises the exceptions of
        the calls and of look_at_workers. The scheduler has only a few calls at any time.
        """
        folder, arguments = os.getcwd(), sys.argv
        calls, waiting, running = iter(calls), collections.deque(), {}
        try:
            while True:
                room = self.room(waiting, running)
                waiting.extend(Task(*pair) for pair in itertools.islice(calls, max(0, max(1, room) - len(waiting))))
                if not waiting and not running:
                    return
                for task in [waiting.popleft() for _ in range(min(room, len(waiting)))]:
                    task.workers = frozenset(self.workers)
                    call = functools.partial(run_in_folder, folder, arguments, task.call)
                    running[self.submit(call, workers=[*task.workers], resources={RESOURCE: 1})] = task
                results, lost = self.next_results(), []
                for future, result in results:
                    if not (task := running.pop(future, None)):
                        continue
                    if future.status == "cancelled":
                        raise self.scheduler_gone()
                    if isinstance(result, distributed.KilledWorker):
                        lost.append(task)
                    elif future.status == "error":
                        raise result
                    else:
                        self.done += 1
                        yield task.label, result
                if not results:
                    time.sleep(POLL)
                self.look_at_workers(every=LOOK)
                # Dask would wait for the workers that a call may run on, even if all of them have died.
                without_worker = [future for future, task in running.items() if task.workers.isdisjoint(self.workers)]
                if without_worker:
                    self.client.cancel(without_worker)
                for task in (*lost, *map(running.pop, without_worker)):
                    task.deaths += 1
                    if task.deaths < MAX_DEATHS:
                        waiting.append(task)
                    else:
                        self.done += 1
                        yield task.label, WorkersDied("every worker that ran it died, perhaps for lack of memory")
        finally:
            if running and self.client.status == "running":
                keys = [future.key for future in running]
                with contextlib.suppress(Exception):
                    self.client.cancel([*running], force=True)
                    self.client.run(cancel_calls, keys, workers=[*self.workers], on_error="ignore", callback_timeout=5)
