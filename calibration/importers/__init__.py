"""Public data sets, from the folder that was downloaded to a table of docs/data.md, with the shipped bundle's own folds."""
