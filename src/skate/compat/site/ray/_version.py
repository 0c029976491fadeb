"""The version that `ray.__version__` tells."""

version = "2.60.0"
commit = ""
