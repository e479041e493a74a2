"""Pretrained weights in files of other programs: safe readers and layer matching. Does not import MXNet."""
