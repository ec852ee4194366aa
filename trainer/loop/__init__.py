"""Training: one step, and the loop around it.

train_step  forward, backward, update; compiled or recorded
loop        steps, evaluations, checkpoints, interruptions
"""
