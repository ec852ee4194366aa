"""Augmentation on the device, batched, each sample with draws of its own.

    flip_shift   the weak augmentation
    views        every view that a method asks for
    operations   codes of the policies' operations, and what an amount of each means
    pixels       what they work on; CutOut
    warp         rotate, shear, translate
    tone         look-up tables, enhancers, filters
    rescale      zoom into the middle
    randaugment  uniform operations and magnitudes (FixMatch, UDA)
    ctaugment    magnitudes learned while training (ReMixMatch, FixMatch)

Random numbers are drawn on the host; the pixels, and what CTAugment has learned, never leave the device. A layer makes
the same few passes over the whole batch whatever operations its rows drew, so shapes never depend on data.
"""
