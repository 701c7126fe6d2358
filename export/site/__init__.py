"""The commands on a user's own images: cross-validation, comparison, maps, and a bundle's heads fitted anew."""
