"""The small seam to Linux: what the standard library does not offer.

`pykrun.host.linux` needs ctypes (1.5 to 3 ms to import); import it where it is used. `pykrun.host.cache` is light.
`pykrun.host.apt` is for what fetches kernels and sources, never for a run.
"""
