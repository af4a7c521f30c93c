"""The public API as text: every name, signature, annotation and default that a program may rely on."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Iterator
from typing import Any

import pykrun
from pykrun import aio


def describe() -> str:
    """One line for each public name of `pykrun` and `pykrun.aio`, and for each of their public members."""
    lines: list[str] = []
    for module in (pykrun, aio):
        for name in sorted(module.__all__):
            lines += _describe(f"{module.__name__}.{name}", getattr(module, name), module.__name__)
    return "\n".join(lines) + "\n"


def _describe(path: str, value: Any, home: str) -> Iterator[str]:
    if inspect.isclass(value):
        if home == "pykrun.aio" and not value.__module__.startswith("pykrun.aio"):
            yield f"{path} is pykrun.{value.__name__}"
            return
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {path}({bases})"
        if hasattr(value, "__total__"):  # a typed dictionary
            for name, kind in sorted(value.__annotations__.items()):
                yield f"  {name}: {_show(kind)}"
            return
        if not issubclass(value, Exception):
            yield f"  __init__{inspect.signature(value.__init__)}"
        for name, member in sorted(vars(value).items()):
            yield from _member(name, member)
    elif inspect.isfunction(value):
        kind = "async def" if inspect.iscoroutinefunction(value) else "def"
        yield f"{kind} {path}{inspect.signature(value)}"
    else:
        yield f"{path}: {type(value).__name__}"


def _member(name: str, member: Any) -> Iterator[str]:
    if name.startswith("_") and name not in ("__enter__", "__exit__", "__aenter__", "__aexit__", "__await__"):
        return
    if isinstance(member, property):
        assert member.fget is not None
        yield f"  {name}: {_show(inspect.signature(member.fget).return_annotation)}"
    elif inspect.isfunction(member):
        kind = "async " if inspect.iscoroutinefunction(member) else ""
        yield f"  {kind}{name}{inspect.signature(member)}"
    elif isinstance(member, types.MemberDescriptorType | enum.Enum):
        yield f"  {name}"


def _show(annotation: Any) -> str:
    return getattr(annotation, "__forward_arg__", None) or str(annotation)


def untyped() -> list[str]:
    """Public functions and methods with a parameter or a result that says no type."""
    found = []
    for module in (pykrun, aio):
        for name in module.__all__:
            value = getattr(module, name)
            members = {name: value} if inspect.isfunction(value) else {}
            if inspect.isclass(value):
                members = {f"{name}.{key}": member for key, member in vars(value).items()}
            for path, member in members.items():
                function = member.fget if isinstance(member, property) else member
                if not inspect.isfunction(function) or not _is_ours(path, function):
                    continue
                signature = inspect.signature(function)
                parameters = [one for one in signature.parameters.values() if one.name != "self"]
                missing = [one.name for one in parameters if one.annotation is inspect.Parameter.empty]
                if signature.return_annotation is inspect.Signature.empty:
                    missing.append("return")
                found += [f"{path}: {what}" for what in missing]
    return found


def _is_ours(path: str, function: Any) -> bool:
    """Not what dataclasses make."""
    return function.__code__.co_filename != "<string>" and not path.endswith(
        ("__getstate__", "__setstate__", "__repr__")
    )


if __name__ == "__main__":
    print(describe(), end="")
