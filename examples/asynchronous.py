"""Several VMs at once in an async program, and one that it talks to."""

from __future__ import annotations

import asyncio

from pykrun import Root, aio


async def judge(number: int, program: str) -> str:
    """Run code that nobody has looked at: as nobody, unable to write, without a network, for a minute at most."""
    root = Root("/", read_only=True).file("/program", program)
    result = await aio.run(["/bin/sh", "/program"], root=root, user=65534, memory=128, text=True, timeout=60)
    return f"{number}: exit code {result.exit_code}, wrote {result.stdout!r}"


async def talk() -> str:
    async with aio.MicroVM(["/bin/cat"], root="/", read_only=True, stdin=aio.PIPE, stdout=aio.PIPE) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        vm.stdin.write(b"hello\n")
        return (await vm.stdout.readline()).decode()


async def main() -> None:
    programs = ["echo good", "exit 3", "id -u", "echo > /etc/passwd"]
    for line in await asyncio.gather(*(judge(number, program) for number, program in enumerate(programs))):
        print(line)
    print(await talk(), end="")


if __name__ == "__main__":
    asyncio.run(main())
