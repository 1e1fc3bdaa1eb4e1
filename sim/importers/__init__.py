"""Files of other tools as scenarios and profiles: one module, or one folder, a format.

Nothing here knows the command line; `sim.cli.importing` has a module for each subcommand of `chunkflow-sim import`.
"""
