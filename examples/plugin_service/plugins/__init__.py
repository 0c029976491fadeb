"""The plugins of this service: every module here is one."""
