"""A program of this machine in a VM that sees this machine's files and can change none of them."""

import pykrun

result = pykrun.run(["/bin/sh", "-c", "uname -sr; touch /new"], root="/", read_only=True, text=True)
print(result.stdout, result.stderr, result.exit_code)
