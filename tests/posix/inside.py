"""The table of POSIX cases as a program for a guest: `main(FOLDER, STEP)`.

Every STEP-th case with every user that can run it, each in a folder of its own below FOLDER; one line of JSON for each,
with what went wrong, empty where nothing did. Needs root. Nobody's cases have one process for all: a fork costs User
Mode Linux more than a case.
"""

from __future__ import annotations

import json
import os
import traceback

from tests.posix.native import NativeView
from tests.posix.table import Case, all_cases
from tests.support.processes import NOBODY, as_nobody

USERS = {0: "root", NOBODY: "nobody"}


def name_of(case: Case, uid: int) -> str:
    return f"{case.name}-{USERS[uid]}"


def cases_of(uid: int, step: int) -> list[Case]:
    """What a user can run, of every `step`-th case."""
    return [case for case in all_cases()[::step] if uid == 0 or not case.root]


def run(case: Case, uid: int, top: str) -> None:
    """Run one case and say how it went."""
    name = name_of(case, uid)
    wrong = ""
    try:
        view = NativeView(os.fsencode(f"{top}/{name}"))
        case.run(view)
        assert view.files == set(), "the case leaves files open"
    except BaseException:
        wrong = traceback.format_exc()
    print(json.dumps({"case": name, "wrong": wrong}), flush=True)


def main(top: str, step: int) -> None:
    os.umask(0)
    for uid in USERS:
        cases = cases_of(uid, step)
        for case in cases:
            folder = f"{top}/{name_of(case, uid)}"
            os.mkdir(folder, 0o755)
            os.chown(folder, uid, uid)

        def work(cases: list[Case] = cases, uid: int = uid) -> None:
            for case in cases:
                run(case, uid, top)

        if uid:
            as_nobody(work)
        else:
            work()
