"""The commands of `realmix-data`, one module each, and what they share.

options        groups of options
progress       progress bars
contact_sheet  the picture that `preview` draws
"""
