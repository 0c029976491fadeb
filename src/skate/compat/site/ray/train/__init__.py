"""Of Ray's training library only `_internal.session`, which libraries ask whether they run inside of a training.

Skate has no training library yet; when it has one, `ray.train` is that, and this file goes.
"""
