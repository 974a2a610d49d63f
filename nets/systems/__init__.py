"""The codecs of the literature, a file for each paper's; `..registry` lists them."""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("quadrans.nets.systems needs PyTorch: pip install 'quadrans[codec]'") from error
