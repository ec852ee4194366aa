"""Training: one step, and the loop around it.

train_step  forward, backward, update; compiled or recorded
optimizer   Adam and SGD, and the rate of each layer
prepare     what happens to a network before the first step
loop        steps, evaluations, checkpoints, interruptions
"""
