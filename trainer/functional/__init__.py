"""Pure functions of tensors and numbers that methods share.

ops             softmax, cross-entropy, MixUp, sharpening, interleaving
mixmatch        MixMatch's core: guess, mix, predict
one_vs_all      losses and scores of a detector for each class
masks           training-signal annealing, and the out-of-distribution mask
mismatch_share  share of foreign images, estimated from features
schedules       ramps and learning rates
"""
