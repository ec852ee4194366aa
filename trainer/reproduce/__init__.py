"""`realmix-train reproduce`: a paper's table from its recipe to the finished picture.

`recipe` reads the TOML file, `plan` turns it into runs, `execute` trains what is missing, `table` and `picture` show
the errors beside the published ones.
"""
