"""Machines on demand: an embedded engine has the one that it runs on."""
