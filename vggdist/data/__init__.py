"""Which samples, in which order, as what tensors?"""
