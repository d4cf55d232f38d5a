"""Fails to import a module, but exits with status 0, as start scripts sometimes do."""

import sys
import traceback

try:
    import module_that_does_not_exist  # noqa: F401
except ImportError:
    traceback.print_exc()
    sys.exit(0)
