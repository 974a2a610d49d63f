"""The codecs of the literature, a file for each paper's; `..registry` lists them."""
