"""Evaluation on photos: real bytes and distortions of models and of Pillow's codecs."""
