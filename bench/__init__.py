"""Measurements: every figure that the project quotes comes from a command here.

`python bench/NAME.py` for codecs, start-up and memory; `quadrans bench coder` for the coders: coder.py runs
the adapters of coders.py on the data of workloads.py.
"""
