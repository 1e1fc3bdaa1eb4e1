"""Data sets: rows of what was measured on a host, as plain data: measuring writes them, fits and comparisons read them.

`cases` are whole scenarios as they ran (`cases.jsonl` with `host.json`), `probe_rows` small measurements of links and
commands (`raw.jsonl`), `probe_parameters` what each kind of probe must say of itself.
"""
