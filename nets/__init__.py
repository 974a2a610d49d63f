"""Codecs of the literature over `quadrans.entropy` and `quadrans.kernels`.

Importing this package imports no torch; the modules that need it (`codec`, `training`, the systems
themselves) do when they are imported.
"""
