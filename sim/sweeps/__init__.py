"""Many simulations: grids of scenarios, the file of their results, worker processes, experiments."""
