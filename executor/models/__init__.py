"""From a model URI or a live module to a checked classifier in evaluation mode.

    options -> URI family -> preprocessing, class names -> check_forward -> LoadedModel

Comes before `obeql.executor.network`, which captures `LoadedModel.module` into a layer graph.
"""

from obeql.executor.models.forward import check_forward
from obeql.executor.models.identity.content_hash import content_hash
from obeql.executor.models.load import adopt, load
from obeql.executor.models.loaded import LoadedModel, RawOutputs
from obeql.executor.models.options import OPTION_NAMES

__all__ = ["OPTION_NAMES", "LoadedModel", "RawOutputs", "adopt", "check_forward", "content_hash", "load"]
