"""Traces of torch.profiler (Kineto, Chrome trace format).

`files` finds and reads them, `kineto` says what their fields mean, `operations` what ran on the GPU and on the host.
`passes` and `layers` find what repeats. `resident` makes explicit blocks of a pass without copies of weights,
`recorded` a recorded program of one with copies. `rates` fits the nearest shipped profile to the trace.
"""
