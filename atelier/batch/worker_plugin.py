"""The plugin that prepares Dask's workers for the toolkit. It travels to them as code, and so imports nothing of it.

Workers and schedulers may be started in any folder, with nothing of the toolkit on their path.
"""

import sys

import cloudpickle
import distributed

RESOURCE = "keras-atelier"


class ToolkitPlugin(distributed.WorkerPlugin):
    """Makes the toolkit importable on workers, has each run one call at a time, and passes on cancellations."""

    def __init__(self, toolkit):
        self.toolkit = str(toolkit)
        self.name = f"{RESOURCE} {toolkit}"

    async def setup(self, worker):
        if self.toolkit not in sys.path:
            sys.path.insert(0, self.toolkit)
        if RESOURCE not in worker.state.total_resources:  # another command may be using it
            await worker.set_resources(**{RESOURCE: 1})

    def transition(self, key, start, finish, **_):
        cluster = sys.modules.get("atelier.batch.cluster")
        if finish == "cancelled" and cluster:
            cluster.cancel_calls([key])


cloudpickle.register_pickle_by_value(sys.modules[__name__])
