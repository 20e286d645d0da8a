"""Pure functions on a NetParameter: the argument stays as it is, a changed copy is returned.

`upgrade.upgrade_net` brings old forms to today's, `filter.filter_net` drops the layers that a phase, level or stage
leaves out, `splits.insert_splits` gives a blob that several layers read a Split layer. A net is built from their
result.
"""

from .filter import file_state, filter_net, solver_state
from .splits import insert_splits
from .upgrade import upgrade_net, upgrade_solver

__all__ = ["file_state", "filter_net", "insert_splits", "solver_state", "upgrade_net", "upgrade_solver"]
