"""Subcommands of `chunkflow-sim import`, one module each: `command` is what it defines.

A module is found by being here, and named as its subcommand, with `_` for `-`. It is loaded when it is asked for.
"""
