"""What to execute, where and as whom: the options, and under them what an image says."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from pykrun.cli import values
from pykrun.cli.roots import Composed
from pykrun.record import record
from pykrun.start_data import User


@record(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the start data are to say of it."""

    program: str | None
    arguments: Sequence[str]
    environment: Mapping[str, str]
    workdir: str | None
    user: User | None


def workload(
    arguments: argparse.Namespace, composed: Composed, command: Sequence[str], environment: Mapping[str, str]
) -> Workload:
    """Put it together; what an image lacks for it is added to the root.

    :raise UsageError: the image says of nothing what to execute, or has no such user.
    """
    if composed.image is None:
        return Workload(
            program=command[0] if command else None,
            arguments=command[1:],
            environment=environment,
            workdir=arguments.workdir,
            user=None if arguments.user is None else values.user(arguments.user),
        )
    from pykrun import image

    config = composed.image.config
    line = image.command_line(config, arguments.entrypoint, command)
    who = image.resolve_user(composed.image.tree, config.user if arguments.user is None else arguments.user)
    workdir = image.working_directory(config, arguments.workdir)
    image.add_missing(composed.root, composed.image.tree, workdir)
    return Workload(
        program=line.program,
        arguments=line.arguments,
        environment=image.environment(config, environment, who.home),
        workdir=workdir,
        user=who.user,
    )
