"""What every step needs, imported before the processes of the steps begin. Importing this touches no device."""

import torch

import obeql.executor.execution.executor
import obeql.session.session
from obeql.executor.models.zoo.import_torchvision import torchvision

__all__ = ["obeql", "torch"]

torchvision("this check")
