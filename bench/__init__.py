"""Measurements: every figure that the project quotes comes from a command here.

`quadrans bench coder` measures the coders: coder.py runs those of coders.py on the data of workloads.py.
`quadrans bench decode` measures decoding from z to y_hat: decode.py runs decoders.py on the networks of
latents.py. `python bench/NAME.py` does the rest: products, codecs, start-up, threads and memory.
"""
