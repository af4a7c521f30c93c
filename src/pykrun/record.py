"""`record`: what `dataclasses.dataclass` is, for the modules that every run imports.

`dataclasses` takes as long to import (it brings inspect, ast, dis and tokenize) and to make fifteen classes (each by
compiling source text) as a fifth of the kernel takes to boot. To a type checker this is `dataclasses`; at run time it
is the part of it that is used here: slots, frozen, keyword-only, default factories, equality and a repr.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field, replace
else:

    class _Factory:
        """A default that is made anew for each object."""

        __slots__ = ("make",)

        def __init__(self, make):
            self.make = make

    def field(*, default_factory):
        """Return a default that `default_factory` makes."""
        return _Factory(default_factory)

    def record(cls=None, /, *, frozen=False, slots=False, kw_only=False):
        """Make a class of annotated names a record."""
        if cls is None:
            return lambda given: record(given, frozen=frozen, slots=slots, kw_only=kw_only)
        names = tuple(getattr(cls, "__annotations__", ()))  # no record inherits from another
        namespace = dict(cls.__dict__)
        defaults = {name: namespace.pop(name) for name in names if name in namespace}
        for old in ("__dict__", "__weakref__"):  # they belong to the class that this one replaces
            namespace.pop(old, None)
        if slots:
            namespace["__slots__"] = names
        namespace["__init__"] = _make_init(cls.__qualname__, names, defaults, kw_only)
        namespace["__eq__"] = _equal
        namespace["__repr__"] = _show
        namespace["__match_args__"] = () if kw_only else names
        namespace["_fields"] = names
        namespace["__hash__"] = _hash if frozen else None
        if frozen:
            namespace["__setattr__"] = namespace["__delattr__"] = _refuse
        made = type(cls)(cls.__name__, cls.__bases__, namespace)
        made.__qualname__ = cls.__qualname__
        return made

    def replace(old, /, **changes):
        """Return a record like `old` but for `changes`."""
        return type(old)(**{name: getattr(old, name) for name in old._fields} | changes)

    def _make_init(owner, names, defaults, kw_only):
        assign = object.__setattr__

        def __init__(self, *args, **values):  # it becomes the method of that name
            if len(args) > (0 if kw_only else len(names)):
                raise TypeError(f"{owner}() takes {'no' if kw_only else len(names)} positional arguments")
            given = dict(zip(names, args, strict=False))
            if given.keys() & values.keys():
                raise TypeError(f"{owner}() got {(given.keys() & values.keys()).pop()!r} twice")
            given |= values
            for name in names:
                if name in given:
                    value = given.pop(name)
                elif name in defaults:
                    value = defaults[name]
                    if type(value) is _Factory:
                        value = value.make()
                else:
                    raise TypeError(f"{owner}() misses {name!r}")
                assign(self, name, value)
            if given:
                raise TypeError(f"{owner}() knows no {given.popitem()[0]!r}")

        return __init__

    def _values(self):
        return tuple(getattr(self, name) for name in self._fields)

    def _equal(self, other):
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(_values(self))

    def _show(self):
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({inner})"

    def _refuse(self, name, *value):
        raise AttributeError(f"{type(self).__qualname__} is frozen: {name!r} cannot change")


__all__ = ["field", "record", "replace"]
