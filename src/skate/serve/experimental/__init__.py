"""Request routers that are there to be used, as in `ray.serve.experimental`."""
