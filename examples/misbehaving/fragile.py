"""Fails immediately."""

import sys

sys.exit("the configuration is missing")
