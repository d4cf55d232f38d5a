"""Fails to import what it needs, and ends with status 0 all the same, as start scripts do."""

import sys
import traceback

try:
    import module_that_nobody_has_installed  # noqa: F401
except ImportError:
    traceback.print_exc()
    sys.exit(0)
