"""Another package's way of making `ray` mean Skate. Tests run this file's text in programs of their own."""

import importlib
import importlib.abc
import importlib.machinery
import sys


class Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers `ray` and `ray.x` with Skate's module of that name."""

    def find_spec(self, name, path=None, target=None):
        if name == "ray" or name.startswith("ray."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return importlib.import_module("skate" + spec.name[3:])

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Alias())
