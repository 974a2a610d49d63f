"""quadrans: exact, fast, safe entropy coding for learned image codecs.

`quadrans.entropy` codes integers (NumPy and Numba), `quadrans.kernels` computes the distributions
that the coder needs exactly, `quadrans.nets` holds the codecs (needs the `torch` extra).
"""

__version__ = "0.1.0"
