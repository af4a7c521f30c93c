"""The init blob: recipe, build, cache, the C parts."""
