"""Turn the package krun_init into what launcher.c reads: one file of marshalled code objects.

Run by the very CPython that is linked into the blob (bytecode differs between minor versions), as a script:
``freeze.py PACKAGE_FOLDER ENTRY OUT ALLOWED,MODULE,NAMES [MODULE=FILE...]``; the last are further modules. It imports
nothing of pykrun. ENTRY is a module; what it does not import, not even through others, stays out: the package holds the
inits of several systems.

What exists only for type checkers is taken out before compiling: annotations, ``from __future__``, and what stands
under ``if TYPE_CHECKING:``. Doc strings and asserts go with optimize=2. Line numbers stay those of the source; columns
and the classes in methods' names, which nobody is shown, go.
"""

from __future__ import annotations
import __future__

import ast
import itertools
import marshal
import sys
import types
from collections.abc import Iterator

MAGIC = b"KRUNFRZ1"
ALWAYS = {"sys", "builtins"}
"""Modules every CPython has; the rest is the second table of modules.c."""

FORGETTER = "_forget"
"""The module that is imported first, and empty then."""

KEPT = ("collect", "environ", "freeze", "set_threshold")
"""What launcher.c itself asks the modules for."""

SEAMS = ("_linux", "_freebsd")
"""Built-in modules that the package imports as its own."""


class FreezeError(Exception):
    """A module of the package cannot be part of the blob."""


class _StripTypes(ast.NodeTransformer):
    """Take out what has no meaning at run time. Statements may vanish; a body left empty gets a `pass`."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With)) and not node.body:
            node.body = [ast.copy_location(ast.Pass(), node)]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.stmt] | None:
        if node.module == "__future__":
            return None
        if node.module == "typing" and [alias.name for alias in node.names] == ["TYPE_CHECKING"]:
            false = ast.Assign(targets=[ast.Name("TYPE_CHECKING", ast.Store())], value=ast.Constant(value=False))
            return ast.fix_missing_locations(ast.copy_location(false, node))
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)


def imports_of(tree: ast.AST, package: str) -> Iterator[tuple[int, str, list[str]]]:
    """Every import in the tree: line, absolute name of the module, and what is taken from it, modules or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -(node.level - 1) or None] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            yield node.lineno, module, [alias.name for alias in node.names]


def check_imports(tree: ast.AST, name: str, package: str, known: set[str]) -> None:
    """:raise FreezeError: the module imports something that is not in the blob."""
    for line, module, names in imports_of(tree, package):
        for wanted in (module, *(f"{module}.{seam}" for seam in SEAMS if seam in names)):
            if wanted not in known:
                raise FreezeError(
                    f"{name}, line {line}: imports {wanted}, which is not linked into the init blob; "
                    f"there are: {', '.join(sorted(known))}"
                )


def parse(sources: dict[str, str], name: str) -> tuple[ast.Module, str]:
    """A module's tree as it is at run time, and the package that its imports are relative to."""
    tree = ast.parse(sources[name], name)
    _StripTypes().visit(tree)
    is_package = any(other.startswith(name + ".") for other in sources)
    return tree, name if is_package else name.rpartition(".")[0]


def reached(sources: dict[str, str], entry: str) -> set[str]:
    """The entry, what it imports at whatever place, what those import, and the packages above them."""
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name in found or name not in sources:
            continue
        found.add(name)
        waiting.append(name.rpartition(".")[0])
        for _line, module, names in imports_of(*parse(sources, name)):
            waiting += [module, *(f"{module}.{one}" for one in names)]
    return found


def compile_module(sources: dict[str, str], name: str, known: set[str]) -> bytes:
    """One module's code, marshalled."""
    tree, package = parse(sources, name)
    check_imports(tree, name, package, known)
    flags = __future__.annotations.compiler_flag
    code = compile(tree, name.replace(".", "/") + ".py", "exec", flags=flags, dont_inherit=True, optimize=2)
    return marshal.dumps(shortened(code))


def shortened(code: types.CodeType) -> types.CodeType:
    """The same code with a table of lines alone, a quarter as long (CPython's Objects/locations.md), and one name."""
    table = bytearray()
    before = code.co_firstlineno
    for line, units in itertools.groupby(position[0] for position in code.co_positions()):
        left = sum(1 for _unit in units)
        while left:
            size = min(left, 8)
            left -= size
            if line is None:
                table.append(0x80 | 15 << 3 | size - 1)
                continue
            delta, before = line - before, line
            table.append(0x80 | 13 << 3 | size - 1)
            rest = -delta << 1 | 1 if delta < 0 else delta << 1
            while rest > 63:
                table.append(rest & 63 | 64)
                rest >>= 6
            table.append(rest)
    inner = (shortened(value) if isinstance(value, types.CodeType) else value for value in code.co_consts)
    return code.replace(co_linetable=bytes(table), co_consts=tuple(inner), co_qualname=code.co_name)


def forgetter(sources: dict[str, str], names: list[str], allowed: set[str]) -> str:
    """A module to be imported first: takes out of the built-in modules whatever no module of the package names.

    That is most of their constants, which are 60 kB of strings and numbers.
    """
    trees = [parse(sources, name) for name in names]
    imported = {module for tree, package in trees for _line, module, _names in imports_of(tree, package)}
    used = {node.attr for tree, _package in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {name for tree, package in trees for _line, _module, names in imports_of(tree, package) for name in names}
    used.update(KEPT)
    modules = sorted(imported & allowed - ALWAYS - set(SEAMS) - set(sources))
    return f"""
for module in ({"".join(f"__import__({name!r}), " for name in modules)}):
    kept = {{}}
    for name, value in module.__dict__.items():
        if name[:2] == "__" or name in {sorted(used)!r}:
            kept[name] = value
    module.__dict__.clear()  # with its table
    module.__dict__.update(kept)
globals().clear()
"""


def freeze(sources: dict[str, str], entry: str, allowed: set[str]) -> bytes:
    """The file's bytes. `sources`: module name to source text; a name that others continue with a dot is a package."""
    package = entry.partition(".")[0]
    known = ALWAYS | allowed | set(sources) | {f"{package}.{seam}" for seam in SEAMS if seam in allowed}
    names = sorted(reached(sources, entry))
    sources = {**sources, FORGETTER: forgetter(sources, names, allowed)}
    names.insert(0, FORGETTER)
    out = [MAGIC, len(names).to_bytes(4, "little")]
    for name in names:
        is_package = any(other.startswith(name + ".") for other in sources)
        code = compile_module(sources, name, known)
        encoded = name.encode() + b"\0"
        for number in (len(encoded), int(is_package), len(code)):
            out.append(number.to_bytes(4, "little"))
        out += [encoded, code]
    return b"".join(out)


def read_package(folder: str) -> dict[str, str]:
    """Every `*.py` in the folder, which is the package, and in the packages directly in it, by module name."""
    import os

    package = os.path.basename(os.path.normpath(folder))
    sources = _read_modules(folder, package)
    sources.setdefault(package, "")
    for entry in sorted(os.listdir(folder)):
        inner = os.path.join(folder, entry)
        if os.path.isfile(os.path.join(inner, "__init__.py")):
            sources.update(_read_modules(inner, f"{package}.{entry}"))
    return sources


def _read_modules(folder: str, package: str) -> dict[str, str]:
    import os

    sources = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".py"):
            name = package if file == "__init__.py" else f"{package}.{file[:-3]}"
            with open(os.path.join(folder, file), encoding="utf-8") as stream:
                sources[name] = stream.read()
    return sources


def main(argv: list[str]) -> int:
    """The command; 1 and one line on standard error when it cannot be done."""
    folder, entry, out, allowed, *more = argv
    sources = read_package(folder)
    for item in more:
        name, _, file = item.partition("=")
        with open(file, encoding="utf-8") as stream:
            sources[name] = stream.read()
    try:
        data = freeze(sources, entry, set(allowed.split(",")))
    except (FreezeError, SyntaxError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with open(out, "wb") as stream:
        stream.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
