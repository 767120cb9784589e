"""The plugin that prepares Dask's workers for the toolkit. It is sent to them as code, and imports no toolkit module.

Workers and schedulers may be started in any folder, and need not have the toolkit on their path.
"""

import sys

import cloudpickle
import distributed

RESOURCE = "keras-atelier"


class ToolkitPlugin(distributed.WorkerPlugin):
    """Makes the toolkit importable on workers, limits each to one call at a time, and reports cancelled calls to it."""

    def __init__(self, toolkit):
        self.toolkit = str(toolkit)
        self.name = f"{RESOURCE} {toolkit}"

    async def setup(self, worker):
        if self.toolkit not in sys.path:
            sys.path.insert(0, self.toolkit)
        if RESOURCE not in worker.state.total_resources:  # if it has the resource, another command may be using it
            await worker.set_resources(**{RESOURCE: 1})

    def transition(self, key, start, finish, **_):
        cluster = sys.modules.get("atelier.batch.cluster")
        if finish == "cancelled" and cluster:
            cluster.cancel_calls([key])


cloudpickle.register_pickle_by_value(sys.modules[__name__])
