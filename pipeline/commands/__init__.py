"""The parts of `realmix-data` that face its user.

options   types and help texts that commands share
progress  progress bars
preview   contact sheets of a store's copies
"""
