"""Programs that were written for Ray: `import ray` answered by Skate.

* `skate.compat.hook` makes `ray` and `ray.x` importable;
* `skate.compat.by_importer` does it where Ray itself is needed, too: for the engine `ray`;
* `skate.compat.facade` says which module stands for `ray.x`;
* `skate.compat.missing` words the errors for what Skate lacks;
* the directory `site` holds what is Ray's alone, the private names that libraries rely on among it, in the package
  `ray`, and the metadata of a distribution called ``ray``. Whatever is not there is Skate's own module of that name.
"""
