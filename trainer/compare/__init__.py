"""`realmix-train compare`: all methods on one's own store, and whether its unlabelled images help.

plan     which methods, splits and seeds: a recipe of `trainer.reproduce`
execute  the missing runs, one after the other in this process
verdict  gains over the labels alone, and one sentence about them
run      the table, the picture, the sentence
"""
