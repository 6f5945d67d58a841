"""Compile what an environment has installed, what is imported first being compiled first.

Run by the environment's own interpreter (2.7 and later, standard library only) at the lowest priority:
`python precompile.py '{"site": ..., "script": ..., "modules": [...]}'`. It can be killed at any time and goes on
where it was when run again: a compiled file appears whole, by rename. Prints the bytes of all compiled files.

The order: the modules that the script's imports lead to, then those that the installed packages lead to, then the
rest, tests last.
"""

import collections
import dis
import inspect
import json
import marshal
import os
import py_compile
import sys

try:
    from importlib.util import cache_from_source
except ImportError:  # Python 2 keeps compiled files beside their source
    cache_from_source = "{}c".format

PYTHON_2 = sys.version_info < (3,)
"""There the order is not worth a disassembler."""
IMPORT = chr(dis.opmap["IMPORT_NAME"]).encode("latin-1")
HEADER = 16 if sys.version_info >= (3, 7) else 12
TESTS = ("tests", "test", "testing")


def main(site, script, modules):
    lower_priority()
    work = Compiler(site)
    try:
        if script and not PYTHON_2:
            work.follow(script_imports(script))
        work.follow(modules)
        for path in everything(site):
            work.compile(path)
    finally:
        work.protect()
    print(work.size())


def lower_priority():
    """Idle class where there is one; the kernel gives such a process idle input and output as well."""
    if hasattr(os, "SCHED_IDLE"):
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
        except OSError:
            pass
    os.nice(19)


class Compiler:
    def __init__(self, site):
        self.site = site
        self.seen = set()
        self.writable = {}

    def follow(self, names):
        """Compile the modules of these names and all that importing them imports.

        What is only imported inside functions comes after that.
        """
        waiting = collections.deque(names)
        later = collections.deque()  # type: collections.deque[str]
        while waiting or later:
            path, package = self.find((waiting or later).popleft())
            if path is None or path in self.seen:
                continue
            self.seen.add(path)
            for part in parts(self.compile(path)):
                (later if part.co_flags & inspect.CO_OPTIMIZED else waiting).extend(imports(part, package))

    def find(self, name):
        """The source of a module in this environment, and the package that its relative imports start from."""
        base = os.path.join(self.site, *name.split("."))
        if os.path.isfile(os.path.join(base, "__init__.py")):
            return os.path.join(base, "__init__.py"), name
        if os.path.isfile(base + ".py"):
            return base + ".py", name.rpartition(".")[0]
        return None, ""

    def compile(self, path):
        """The module's code, compiled now or before; None when it is not Python for this interpreter."""
        target = cache_from_source(path)
        try:
            if not os.path.exists(target):
                self.allow(os.path.dirname(target))
                temporary = "%s.%d" % (target, os.getpid())
                py_compile.compile(path, temporary, path, doraise=True)
                os.chmod(temporary, 0o444)
                os.rename(temporary, target)
            with open(target, "rb") as file:
                return marshal.loads(file.read()[HEADER:])  # noqa: S302  what was just compiled
        except (py_compile.PyCompileError, OSError, ValueError, EOFError, TypeError, RuntimeError):
            return None

    def allow(self, folder):
        """Make a directory writable until `protect`."""
        if folder in self.writable:
            return
        if not os.path.isdir(folder):
            parent = os.path.dirname(folder)
            mode = os.stat(parent).st_mode & 0o7777
            os.chmod(parent, mode | 0o200)
            try:
                os.mkdir(folder)
            finally:
                os.chmod(parent, mode)
        self.writable[folder] = os.stat(folder).st_mode & 0o7555
        os.chmod(folder, self.writable[folder] | 0o200)

    def protect(self):
        for folder, mode in self.writable.items():
            os.chmod(folder, mode)

    def size(self):
        found = (cache_from_source(path) for path in everything(self.site))
        return sum(os.path.getsize(path) for path in found if os.path.exists(path))


def script_imports(script):
    """What the experiment's own script imports, through its neighbours as well."""
    folder = os.path.dirname(script)
    waiting, seen, names = [script], set(), []
    while waiting:
        path = waiting.pop(0)
        if path in seen or not os.path.isfile(path):
            continue
        seen.add(path)
        try:
            with open(path, "rb") as file:
                code = compile(file.read(), path, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError, RuntimeError):
            continue
        for name in imports(code, ""):
            names.append(name)
            base = os.path.join(folder, *name.split("."))
            waiting += [base + ".py", os.path.join(base, "__init__.py")]
    return names


def imports(code, package):
    """Names of the modules that this code imports, in its order; parents before children."""
    level = names = None  # type: object
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            start = absolute(instruction.argval, level if isinstance(level, int) else 0, package)
            for name in leading(start):
                yield name
            for name in names if isinstance(names, tuple) else ():
                if name != "*" and start:
                    yield start + "." + name
        elif instruction.opname.startswith("LOAD_"):
            level, names = names, instruction.argval


def absolute(name, level, package):
    if level == 0:
        return name
    parts = package.split(".")
    parts = parts[: len(parts) - level + 1]
    return ".".join(parts + ([name] if name else []))


def leading(name):
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def parts(code):
    """This code and all code inside it, however deep, that imports something; functions are the optimised ones."""
    if code is None or PYTHON_2:
        return
    if IMPORT in code.co_code[::2]:
        yield code
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            for part in parts(constant):
                yield part


def everything(site):
    """All source files, those in directories of tests last."""
    tests = []
    for folder, _, files in os.walk(site):
        inside = folder[len(site) :].split(os.sep)
        paths = [os.path.join(folder, name) for name in sorted(files) if name.endswith(".py")]
        if any(part in TESTS for part in inside):
            tests.extend(paths)
            continue
        for path in paths:
            yield path
    for path in tests:
        yield path


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
