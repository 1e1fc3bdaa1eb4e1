"""Reading and writing files: YAML and JSON to typed structs, quantities with units, whole files or none."""
