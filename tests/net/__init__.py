"""The host's half of a guest's network, with passt and network namespaces as they are."""
