"""Training: one step, and the loop around it.

assemble    network, optimizer, batches and evaluator, from a run's settings
train_step  forward, backward, update; compiled or recorded
optimizer   Adam and SGD, and the rate of each layer; fused has their kernels
prepare     what happens to a network before the first step
loop        steps, evaluations, checkpoints, interruptions
"""
