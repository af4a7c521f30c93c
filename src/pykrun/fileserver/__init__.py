"""The file server on its own: a share on a vhost-user socket (`daemon`), or mounted on the host (`host_mount`).

Three processes at most: the keeper, which the user started and which touches the outside; the one that serves, which
touches the share; and for a mount the guardian, which unmounts when the keeper dies.
"""
