"""Other people's codecs over our coders: CompressAI's models and bytes, torchac's functions and bytes.

Importing this package imports neither torch nor what it adapts.
"""
