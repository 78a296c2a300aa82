"""The public names, listed here only: what type checkers and editors know, and what the package loads on demand."""

from tern_lightning.after_training import PostTrained as PostTrained
from tern_lightning.after_training import post_training as post_training
from tern_lightning.callbacks import *  # noqa: F403
from tern_lightning.exporter.estimating import estimate as estimate
from tern_lightning.exporter.pipeline import export as export
from tern_lightning.layer_sensitivity import Sensitivity as Sensitivity
from tern_lightning.layer_sensitivity import sensitivity as sensitivity
from tern_lightning.loop import freeze as freeze
from tern_lightning.loop import set_progress as set_progress
from tern_lightning.loop import ternarize as ternarize
from tern_lightning.loop import to_plain as to_plain
from tern_lightning.nn.compound_scaling import scale_network as scale_network
from tern_lightning.nn.compound_scaling import search_scaling as search_scaling
from tern_lightning.nn.layer_types import register_layer as register_layer
from tern_lightning.own_loop import PreparedLoop as PreparedLoop
from tern_lightning.own_loop import prepare as prepare
from tern_lightning.recipes.lookup import presets as presets
from tern_lightning.rules import Rule as Rule
from tern_lightning.schedules import Schedule as Schedule
from tern_lightning.ternary_tensor import TernaryTensor as TernaryTensor
from tvm_schedules.common.version import __version__ as __version__
