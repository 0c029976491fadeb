"""Plugins that ship with Skate."""
