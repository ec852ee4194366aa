"""Strong augmentation policies, batched: RandAugment and CTAugment, each sample with its own operations.

    operations   their codes, and what an amount of each means
    pixels       what they work on; cutout
    warp         rotate, shear, translate
    tone         look-up tables, enhancers, filters
    rescale      zoom into the middle
    randaugment  uniform operations and magnitudes (FixMatch, UDA)
    ctaugment    magnitudes learned while training (ReMixMatch, FixMatch)

Random numbers are drawn on the host; the pixels, and what CTAugment has learned, never leave the device. A layer makes
the same few passes over the whole batch whatever operations its rows drew, so shapes never depend on data.
"""
