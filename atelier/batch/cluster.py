"""Other processes and machines: calls of our functions, done by a Dask cluster's workers. Nothing else knows of Dask.

In go calls, out come their results as they are done. A call travels as the names of a module and a function, and its
arguments; the toolkit, the folder in which the command runs and all files lie where every worker sees them.
"""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import logging
import multiprocessing.resource_tracker
import os
import pathlib
import pickle
import queue
import signal
import sys
import threading
import time
import types
import warnings

import dask.system
import distributed

import config
from atelier.command_line import lazy_import
from atelier.errors import InputError, PartlyDone, describe

hardware = lazy_import("atelier.hardware")

TOOLKIT = config.ROOT


@dataclasses.dataclass(frozen=True)
class Call:
    """A function of one of our modules, by name, and its arguments, which can be pickled."""

    module: str
    function: str
    arguments: tuple = ()

    def __call__(self):
        return getattr(importlib.import_module(self.module), self.function)(*self.arguments)


class Lost(Exception):
    """A call that has taken worker after worker with it: the result that it has instead of one."""


def versions():
    """Return what must be alike on all machines, a dict of strings: our own files, and what pictures depend on."""
    return {"this toolkit": OWN_VERSION} | {name: installed(name) for name in ("keras", "tensorflow")}


def installed(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it may go by another name, tensorflow-cpu
        return "of no known version"


def checksum_of_toolkit():
    digest = hashlib.sha256()
    for path in sorted([*TOOLKIT.glob("*.py"), *TOOLKIT.glob("atelier/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


OWN_VERSION = checksum_of_toolkit()  # at once: what a worker has imported stays, whatever becomes of the files


# --- The worker's side -------------------------------------------------------------------------

# One call at a time, however many Dask would give it: a painting takes all of a worker's cores, and gigabytes. And all
# in one thread, since Keras keeps its precision for each thread by itself.
THREAD = concurrent.futures.ThreadPoolExecutor(1)


def make_membership(command, terms, toolkit=str(TOOLKIT)):
    """Make the plugin by which a worker, now or later, takes part in a command's work once it sees what that needs.

    Its class travels as code, since the worker must first be told where the toolkit lies: it knows of no module.
    """

    class Membership(distributed.WorkerPlugin):
        name = command
        refusal = None  # why the worker takes no part, where it doesn't

        async def setup(self, worker):
            import asyncio

            self.joining = asyncio.create_task(self.join(worker))  # other commands' work goes on meanwhile

        async def join(self, worker):
            import sys

            if toolkit not in sys.path:
                sys.path.insert(0, toolkit)
            try:
                from atelier.batch import cluster

                self.refusal = await cluster.join(worker, command, terms)
            except Exception as error:
                self.refusal = f"it can't use the toolkit in {toolkit} ({error})"

        def transition(self, key, start, finish, **_):
            if finish == "cancelled" and str(key).startswith(command):
                from atelier.batch import cluster

                cluster.interrupt(key)

        def teardown(self, worker):
            from atelier.batch import cluster

            cluster.interrupt_all(command)

    return Membership()


def make_question(command):
    """Make a function that asks a worker why it takes no part: None where it does, or is still looking."""

    def refusal(dask_worker):
        plugin = dask_worker.plugins.get(command)
        return plugin and plugin.refusal

    return refusal


def make_broom(prefix):
    """Make a function that removes from a scheduler what commands left there that have died."""

    def sweep(dask_scheduler):
        names = [name for name in dask_scheduler.worker_plugins if name.startswith(prefix)]
        names = [name for name in names if name[len(prefix) :] not in dask_scheduler.clients]
        for name in names:
            del dask_scheduler.worker_plugins[name]

    return sweep


def make_runner():
    """Make the function that does a call; the scheduler sees it, too, and need not know of our modules.

    What the call comes to goes the way of news, which costs the scheduler least: as a task's result it would stay with
    the worker, be asked for, and be lost with the worker.
    """

    def run(order, key):
        import pickle

        import distributed

        from atelier.batch import cluster

        result = cluster.THREAD.submit(cluster.work, order, key).result()
        distributed.get_worker().log_event(key.rpartition("/")[0], (key, pickle.dumps(result)))

    return run


async def join(worker, command, terms):
    """Have a worker take part, by a resource that calls ask for; return why it can't, or None."""
    loop = asyncio.get_running_loop()
    refusal = await loop.run_in_executor(None, find_refusal, worker.state.nthreads, *pickle.loads(terms))
    if not refusal:
        sys.unraisablehook = press_again
        WORKERS[:] = [worker]
        await worker.set_resources(**{command: 1})
    return refusal


def find_refusal(cores, folder, theirs, inspection):
    """Say why this worker can't take part: it does not see what it should, or is another version; or return None."""
    ours = versions()
    different = [f"{name} {ours[name]}, not {theirs[name]}" for name in theirs if ours[name] != theirs[name]]
    if different:
        return f"it has {' and '.join(different)}; bring it up to date and start it anew"
    if not os.path.isdir(folder):
        return f"it does not see {folder}, where the command runs"
    try:
        with LOOKING:
            hardware.use_cores(cores)
            with GUARD:
                if not RUNNING:  # another command's work may rely on its own folder; then only whole paths are seen
                    os.chdir(folder)
            return inspection()
    except Exception as error:
        return describe(error)


WORKERS = []  # that of this process
RUNNING = {}  # the key of the call that is being done, and its thread
CANCELLED = set()  # keys of calls for which nobody waits any more, and which were not begun yet
SERVED = []  # the command whose call was done last
GUARD = threading.Lock()
LOOKING = threading.Lock()  # one after the other, since modules are loaded meanwhile


def work(order, key):
    """Do a call as the command would, in its folder. Raises CancelledError where it was interrupted."""
    command = key.rpartition("/")[0]
    try:
        with GUARD:
            if key in CANCELLED:
                raise concurrent.futures.CancelledError
            RUNNING[key] = threading.get_ident()
            folder, sys.argv, call = pickle.loads(order)  # pictures tell the command that made them
            os.chdir(folder)
        forget_others(command)
        return call()
    except KeyboardInterrupt:
        raise concurrent.futures.CancelledError from None
    finally:
        with GUARD:
            RUNNING.pop(key, None)
        with contextlib.suppress(KeyboardInterrupt):  # one of the last moment comes here, and not in what follows
            for _ in range(1000):
                pass


def forget_others(command):
    """Clear what is remembered by the names of files, where another command's work comes: its files may be others."""
    if SERVED and SERVED[-1] != command:
        ours = [vars(module) for module in [*sys.modules.values()] if type(module) is types.ModuleType]
        for names in ours:
            path = pathlib.Path(names.get("__file__") or "/")
            if path.parent == TOOLKIT or path.is_relative_to(TOOLKIT / "atelier"):
                for value in [*names.values()]:
                    if hasattr(value, "cache_clear"):
                        value.cache_clear()
    SERVED[:] = [command]


def tell(number):
    """Tell the command, from within a call, how much of the work is done."""
    for key in RUNNING:
        WORKERS[-1].log_event(key.rpartition("/")[0], (None, number))


def interrupt(key):
    """Have a call end as if Ctrl-C were pressed, or not begin: nobody waits for it any more."""
    with GUARD:
        thread = RUNNING.get(key)
        if thread is None:
            CANCELLED.add(key)
        else:
            RUNNING[key] = None  # once is enough
            press(thread)


def press(thread):
    """Have a KeyboardInterrupt come in a thread, as if Ctrl-C were pressed there."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))


def press_again(dropped):
    """Interrupt a call once more where that came while Python cleared something away, which drops every error."""

    def again(thread):
        with GUARD:
            if RUNNING:
                press(thread)

    if issubclass(dropped.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, again, [threading.get_ident()]).start()
    else:
        sys.__unraisablehook__(dropped)


def interrupt_all(command):
    """Have all calls of a command end that are being done."""
    for key in [key for key in RUNNING if key.startswith(command)]:
        interrupt(key)


# --- The command's side ------------------------------------------------------------------------

PATIENCE = 60  # seconds without a worker, after which a command gives up
LOOK = 2  # seconds after which it looks which workers there are
ANSWER = 20  # seconds within which a scheduler or a worker answers, where it does
GATHERING = 0.003, 0.1  # seconds for each worker, and at most, in which news are gathered before they are heeded
CONNECT = 10  # seconds for which a scheduler is sought
PREFIX = "keras-atelier-"
IN_FLIGHT = 2  # calls for each worker: one that it does, and one that waits there
KILLED = 2  # times that Dask may give a call up, each after the death of several workers that had it at hand

# What suits calls of seconds to minutes, and workers whose memory is TensorFlow's, in Dask's own cluster of processes.
# For a cluster that is there, docs/cluster.md names those that matter.
SETTINGS = {
    # Workers die for reasons of their own, and take a call that only waited along; what kills them all ends as Lost.
    "distributed.scheduler.allowed-failures": 5,
    # Loading a network may hold Python's lock for a while, and no heartbeat comes; a process that dies is noticed at
    # once by its connection.
    "distributed.scheduler.worker-ttl": "10 minutes",
    # A hundred looks a second into the thread that paints would only hold it up.
    "distributed.worker.profile.enabled": False,
}


@contextlib.contextmanager
def open_session(options, inspection):
    """Yield the DaskSession of --scheduler, or of --workers processes here, whose workers see what a command needs.

    `inspection` is a call that each worker does first: it returns, in a line, what it lacks, or None. Raises InputError
    where no scheduler answers, or no worker comes.
    """
    warnings.filterwarnings("ignore", category=distributed.versions.VersionMismatchWarning)
    for name in ["distributed", *logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters of it, we say in a line
    with contextlib.ExitStack() as stack:
        where = options.scheduler
        if where is None:
            where = stack.enter_context(open_processes(options.workers))
        client = stack.enter_context(connect(where))
        session = DaskSession(client, inspection, options.scheduler or "the processes here", options.quiet)
        stack.callback(session.dismiss)
        session.gather()
        yield session


@contextlib.contextmanager
def open_processes(count):
    """Yield the address of a scheduler with so many worker processes on this machine, which share its cores."""
    with dask.config.set(SETTINGS):
        with passing_over_ctrl_c():
            processes = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=max(1, dask.system.CPU_COUNT // count),
                memory_limit=0,  # the nanny would kill a worker for memory that the machine has
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        try:
            yield processes.scheduler_address
        finally:
            processes.close(timeout=10)


@contextlib.contextmanager
def passing_over_ctrl_c():
    """Have the threads and processes that are started now, and those that they start, pass over Ctrl-C.

    A terminal sends it to all of them, and it is for the command to end them. It is heeded here at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # What watches over semaphores would complain of those that a killed process leaves; it must not begin herein.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")
    multiprocessing.resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def connect(address):
    """Yield a client of the scheduler at an address. Raises InputError where none answers."""
    if address.startswith("tls:") and not distributed.security.Security().get_connection_args("client")["ssl_context"]:
        raise InputError(f"{address} needs certificates, which Dask's configuration names under distributed.comm.tls")
    try:
        client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"no scheduler answers at {address} ({describe(error)[:200]})") from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=5)


class DaskSession:
    """The workers of a cluster that take part in a command's work."""

    def __init__(self, client, inspection, where, quiet):
        self.client, self.where, self.quiet = client, where, quiet
        self.command = PREFIX + client.id  # the name of the plugin, of the resource that its workers have, of events
        self.order = os.getcwd(), sys.argv
        self.terms = pickle.dumps((os.getcwd(), versions(), inspection))
        self.runner, self.question = make_runner(), make_question(self.command)
        self.members, self.refusals = set(), {}
        self.came_to, self.heard = {}, None  # each call's result, pickled; who hears what calls tell meanwhile
        self.done = self.number = 0
        self.began = self.looked = self.manned = time.monotonic()
        self.replaced = False

    def timed(self, coroutine, *arguments, seconds=ANSWER, **more):
        """Call a coroutine of the client's. Raises InputError where the scheduler is gone, TimeoutError."""
        try:
            return self.client.sync(coroutine, *arguments, callback_timeout=seconds, **more)
        except TimeoutError:
            raise
        except (OSError, distributed.client.ClosedClientError) as error:
            raise self.gone() from error

    def gather(self):
        """Let the workers join, and wait for the first. Raises InputError where none can, and PartlyDone later."""
        with contextlib.suppress(Exception):  # another version of Dask may have other names there
            self.client.run_on_scheduler(make_broom(PREFIX))
        self.client.subscribe_topic(self.command, lambda event: self.hear(*event[1]))
        with contextlib.suppress(TimeoutError):  # of a worker that does not answer: the scheduler has it by then
            self.timed(
                self.client._register_worker_plugin, make_membership(self.command, self.terms), self.command, True
            )
        while not self.members:
            self.look_around()
            if not self.members:
                time.sleep(0.2)
        self.say(f"cluster: {self.where}, workers: {len(self.members)}")

    def dismiss(self):
        """Let the workers go."""
        if self.client.status != "running":
            return
        with contextlib.suppress(Exception):
            self.timed(self.client._unregister_worker_plugin, self.command)

    def look_around(self):
        """See which workers there are, and say why one can't take part. Raises InputError where there is none."""
        self.looked = time.monotonic()
        try:
            known = self.timed(self.client.scheduler.identity, n_workers=-1)["workers"]
        except TimeoutError:
            return
        members = {
            address
            for address, worker in known.items()
            if worker["resources"].get(self.command) and worker["status"] == "running"
        }
        # Dask looks for no other worker for what none could do, once one comes that can.
        self.replaced |= bool(members) and not members & self.members
        self.members = members
        self.refusals = {address: why for address, why in self.refusals.items() if address in known}
        self.ask_why({address: known[address]["status"] for address in known.keys() - members - self.refusals.keys()})
        if members:
            self.manned = self.looked
        elif self.looked - self.manned > PATIENCE * (10 if known.keys() - self.refusals.keys() else 1) or (
            self.manned == self.began and known and known.keys() == self.refusals.keys()
        ):
            raise self.given_up()

    def ask_why(self, strangers):
        """Say in a line of each worker why it takes no part, where it is known."""
        for address in [address for address, status in strangers.items() if status == "paused"]:
            self.refusals[address] = "Dask has paused it for its memory; start it with --memory-limit 0"
            self.say(f"note: the worker {address} takes no part: {self.refusals[address]}")
            del strangers[address]
        if not strangers:
            return
        with contextlib.suppress(TimeoutError):
            run = functools.partial(self.client._run, workers=[*strangers], on_error="ignore")
            for address, refusal in self.timed(run, self.question).items():
                if refusal:
                    self.refusals[address] = refusal
                    self.say(f"note: the worker {address} takes no part: {refusal}")

    def given_up(self):
        """Make the error which says that there is no worker."""
        if self.refusals:
            return self.ended(f"no worker of {self.where} can take part: {[*self.refusals.values()][0]}")
        return self.ended(f"{self.where} had no worker for {PATIENCE} s; start some, and give the command again")

    def gone(self):
        """Make the error which says that the scheduler is."""
        return self.ended(f"the scheduler {self.where} went away; what is done is kept, the same command goes on")

    def ended(self, message):
        return (PartlyDone if self.done else InputError)(message)

    def say(self, line):
        if not self.quiet:
            print(line, file=sys.stderr)

    def listen(self, heard):
        """Have `heard` called with each number that calls tell."""
        self.heard = heard

    def hear(self, key, news):
        """Heed what a worker tells: what a call has come to, or, without a key, how far it is."""
        if key:
            self.came_to[key] = news
        elif self.heard:
            self.heard(news)

    def ask(self, call):
        """Return what a call comes to on one of the workers. Raises what it raises, or Lost."""
        ((_, result),) = self.results([(None, call)])
        if isinstance(result, Lost):
            raise result
        return result

    def results(self, calls):
        """Do calls, of pairs (label, call): yields (label, result), each as it is done; of one that is lost, a Lost.

        Raises what a call raises, and what `look_around` does. Only a few are with the scheduler at any time.
        """
        calls, again, waiting, ended = ((*call, 0) for call in calls), [], {}, queue.SimpleQueue()
        try:
            while True:
                if self.replaced:
                    self.replaced = False
                    again += waiting.values()
                    self.cancel(waiting)
                    waiting.clear()
                room = max(0, max(1, len(self.members)) * IN_FLIGHT - len(waiting) - len(again))
                tasks = [*again, *itertools.islice(calls, room)]
                again.clear()
                for future, task in zip(self.submit(tasks), tasks, strict=True):
                    waiting[future] = task
                    future.add_done_callback(ended.put)
                if not waiting:
                    return
                news = take_all(ended, LOOK, min(GATHERING[0] * len(self.members), GATHERING[1]))
                for future in [future for future in news if future in waiting]:
                    result = self.result_of(future)
                    label, call, deaths = waiting.pop(future)
                    if isinstance(result, Lost) and deaths + 1 < KILLED:
                        again.append((label, call, deaths + 1))
                        continue
                    self.done += 1
                    yield label, result
                if time.monotonic() - self.looked > LOOK:
                    self.look_around()
        finally:
            self.cancel(waiting)

    def cancel(self, futures):
        if futures and self.client.status == "running":
            with contextlib.suppress(Exception):
                self.timed(self.client._cancel, [*futures], force=True)

    def submit(self, tasks):
        """Give tasks, whose second item is a call, to the scheduler; return their futures."""
        if not tasks:
            return []
        orders = [pickle.dumps((*self.order, call)) for _, call, _ in tasks]
        keys = [f"{self.command}/{self.number + i}" for i in range(len(tasks))]
        self.number += len(tasks)
        try:
            return self.client.map(self.runner, orders, keys, key=keys, pure=False, resources={self.command: 1})
        except (OSError, distributed.client.ClosedClientError) as error:
            raise self.gone() from error

    def result_of(self, future):
        """Return what a call has come to, or a Lost if its workers died. Raises what it raised."""
        if future.key in self.came_to:
            return pickle.loads(self.came_to.pop(future.key))
        if future.status == "cancelled":
            raise self.gone()
        return lost(future)


def take_all(ended, seconds, gathering):
    """Take what a queue holds, a list: wait so many seconds for the first, and a moment for those that come with it."""
    taken = []
    with contextlib.suppress(queue.Empty):
        taken.append(ended.get(timeout=seconds))
        time.sleep(gathering)
        while True:
            taken.append(ended.get_nowait())
    return taken


def lost(future):
    """Return the Lost of a call whose workers died. Raises any other error that it has come to."""
    error = future.exception()
    if not isinstance(error, distributed.KilledWorker):
        raise error
    return Lost("every worker that had it at hand died, for want of memory perhaps")
