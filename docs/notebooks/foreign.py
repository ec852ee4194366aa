# %% [markdown]
# # Which images are foreign
#
# Handwritten digits: 0 to 3 have labels, the unlabelled images are of 2 to 5. Half of the pool is foreign, and the
# run is not told so.

# %%
import subprocess

import numpy as np

import realmix

built = realmix.build("digits", copies=10, labels="20")
split = realmix.split(
    built.store,
    labeled_classes=["0", "1", "2", "3"],
    unlabeled_classes=["2", "3", "4", "5"],
    labels=40,
    name="digits_mismatch",
)[0]

# %% [markdown]
# RealMix leaves out of its unlabelled loss what looks foreign; with `gamma="auto"` it estimates how much that is.

# %%
run = realmix.train(split, "realmix", gamma="auto", steps=1000, model="wrn-10-1", batch=16, name="masked", quiet=True)
print(f"{run.error:.1f} % of the test images are taken for another class")

# %% [markdown]
# `realmix-train foreign` ranks the pool by how foreign an image looks, most foreign first.

# %%
subprocess.run(["realmix-train", "foreign", str(run.path), "-o", "foreign.csv", "--sheet", "foreign.html"], check=True)

# %% [markdown]
# Here the classes are known, so the list can be checked: how many of the first half are foreign? By chance it would
# be every second one.

# %%
rows = np.genfromtxt("foreign.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
labels = split.dataset.train_labels[rows["row"]]
is_foreign, half = np.isin(labels, (4, 5)), len(labels) // 2
print(f"{is_foreign[:half].mean():.0%} of the first half are a 4 or a 5, {is_foreign[half:].mean():.0%} of the rest")

# %% [markdown]
# A split without them is a split like any other, for any method.

# %%
subprocess.run(["realmix-train", "foreign", str(run.path), "--split", "digits_clean"], check=True)
clean = realmix.open_store("stores/digits_clean")
print(len(split.unlabeled), "unlabelled images before,", len(clean.unlabeled), "after")
