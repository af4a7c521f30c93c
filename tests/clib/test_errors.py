"""Every error of the table again, from C: the cases are those of tests/krun, the numbers have to be the same."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun.clib.abi import FUNCTIONS, Param
from tests.clib.driver import CLibrary
from tests.krun import test_errors as python

GONE = (python.GONE, 0xFFFFFFFF)
PARAMS = {function.name: function.params for function in FUNCTIONS}
BITS = {"uint8_t": 8, "uint16_t": 16, "uint32_t": 32, "uid_t": 32, "gid_t": 32, "uint64_t": 64, "size_t": 64, "bool": 1}

Case = tuple[Callable[..., int], tuple[object, ...]]


def can_say(function: Callable[..., int], arguments: tuple[object, ...]) -> bool:
    """Whether a C program can hand over these arguments, those after the context, at all."""
    params = PARAMS[function.__name__][1:]
    lengths = dict(zip((param.name for param in params), arguments, strict=True))
    return all(_fits(param, value, lengths) for param, value in zip(params, arguments, strict=True))


def _fits(param: Param, value: object, values: dict[str, object]) -> bool:
    match param.kind.name:
        case "number":
            word = param.kind.c.split()[0]
            low, high = (-(1 << 31), 1 << 31) if word == "int" else (0, 1 << BITS[word])
            return isinstance(value, int) and low <= value < high
        case "text":
            return value is None or _is_text(value)
        case "texts" | "environment":
            return value is None or (isinstance(value, list) and all(_is_text(entry) for entry in value))
        case "mac":
            return value is None or (isinstance(value, bytes) and len(value) == 6)
        case "data":
            length = values.get("data_len", values.get("blob_size", 0))
            return value is None or (isinstance(value, bytes) and isinstance(length, int) and len(value) >= length)
        case "sizes":
            count = values["num_queues"]
            return value is None or (isinstance(value, list) and isinstance(count, int) and len(value) >= count)
    raise AssertionError(param)


def _is_text(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value and value.isprintable()
    return isinstance(value, bytes) and b"\0" not in value


@pytest.fixture(scope="module")
def c() -> Iterator[CLibrary]:
    with CLibrary() as library:
        yield library


@pytest.fixture(scope="module")
def shared_ctx(c: CLibrary) -> int:
    """For calls that fail, and so leave it as it is."""
    made: int = c.krun_create_ctx()
    assert made >= 0
    return made


@pytest.fixture
def ctx(c: CLibrary) -> Iterator[int]:
    made = c.krun_create_ctx()
    assert made >= 0
    yield made
    c.krun_free_ctx(made)


def cases(wrong: list[Case]) -> pytest.MarkDecorator:
    found = [case for case in wrong if can_say(*case)]
    assert found
    return pytest.mark.parametrize(("function", "arguments"), found, ids=python.name_of)


def of_texts() -> list[Case]:
    return [
        (function, python.with_argument(arguments, index, wrong))
        for function, arguments, index in python.TEXTS
        for wrong in (None, python.NOT_UTF8)
    ]


def of_arrays() -> list[Case]:
    wrongs: list[object] = [[b"\xff"], ["A=b"] * 4097]
    return [
        (function, python.with_argument(arguments, index, wrong))
        for function, arguments, index, optional in python.ARRAYS
        for wrong in (wrongs if optional else [None, *wrongs])
    ]


@cases([*of_texts(), *[(function, arguments) for function, arguments, _ in python.OPTIONAL], *of_arrays()])
def test_texts(c: CLibrary, shared_ctx: int, function: Callable[..., int], arguments: tuple[object, ...]) -> None:
    assert getattr(c, function.__name__)(shared_ctx, *arguments) == -errno.EINVAL


@cases(python.INVALID)
def test_invalid(c: CLibrary, shared_ctx: int, function: Callable[..., int], arguments: tuple[object, ...]) -> None:
    assert getattr(c, function.__name__)(shared_ctx, *arguments) == -errno.EINVAL


@cases(python.UNSUPPORTED)
def test_unsupported(c: CLibrary, shared_ctx: int, function: Callable[..., int], arguments: tuple[object, ...]) -> None:
    assert getattr(c, function.__name__)(shared_ctx, *arguments) == -errno.ENOTSUP


@cases(python.CONTEXTS)
def test_an_unknown_context(c: CLibrary, function: Callable[..., int], arguments: tuple[object, ...]) -> None:
    for gone in GONE:
        assert getattr(c, function.__name__)(gone, *arguments) == -errno.ENOENT


FIXTURES = {"ctx", "tmp_path"}
SEQUENCES = [
    test
    for name, test in vars(python).items()
    if name.startswith("test_") and inspect.signature(test).parameters.keys() <= FIXTURES
]
assert len(SEQUENCES) > 10


@pytest.mark.parametrize("sequence", SEQUENCES, ids=python.name_of)
def test_sequences(
    c: CLibrary, ctx: int, sequence: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same calls one after the other, with the C library in the place of the module."""
    monkeypatch.setattr(python, "krun", c)
    fixtures = {"ctx": ctx, "tmp_path": tmp_path}
    sequence(**{name: fixtures[name] for name in inspect.signature(sequence).parameters})


def parameters(test: Callable[..., None]) -> list[object]:
    """What a test of the other file is given."""
    marks: list[pytest.Mark] = test.pytestmark  # type: ignore[attr-defined]  # pytest keeps them there
    return list(marks[0].args[1])


@pytest.mark.parametrize("configure", parameters(python.test_what_cannot_be_started_returns))
def test_what_cannot_be_started_returns(
    c: CLibrary, ctx: int, configure: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python, "krun", c)
    python.test_what_cannot_be_started_returns(ctx, configure)


@pytest.mark.parametrize(("arguments", "number"), parameters(python.test_init_log))
def test_init_log(
    c: CLibrary, arguments: tuple[int, int, int, int], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python, "krun", c)
    python.test_init_log(arguments, number)
