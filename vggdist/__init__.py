"""Distributed training of VGG image classifiers with Horovod and MXNet."""
