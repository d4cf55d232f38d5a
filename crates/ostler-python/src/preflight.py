"""Imports what a worker's file imports, without running the file, and prints a report as JSON.

Runs under the worker's own interpreter; needs nothing but the standard library.
"""

import ast
import importlib
import json
import os
import re
import sys


def imports(tree):
    """The modules that the file needs when it is imported: outside of functions, and not where an ImportError is handled."""
    for node in tree:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level and node.module != "__future__":
                yield node.module, node.lineno
        elif isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.dump(node.test):
                yield from imports(node.body)
            yield from imports(node.orelse)
        elif isinstance(node, ast.Try):
            if not node.handlers:
                yield from imports(node.body)
            yield from imports(node.orelse + node.finalbody)
        elif isinstance(node, (ast.With, ast.ClassDef)):
            yield from imports(node.body)


def version_of(module):
    """The version of the distribution that a module belongs to."""
    from importlib import metadata

    top = module.split(".")[0]
    names = [top]
    if hasattr(metadata, "packages_distributions"):
        names = metadata.packages_distributions().get(top, []) + names
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return getattr(sys.modules.get(top), "__version__", None)


def try_import(module, line):
    result = {"module": module, "line": line, "version": None, "missing": None, "error": None}
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        result["missing"] = error.name or module
        result["error"] = "ModuleNotFoundError: " + str(error)
    except BaseException as error:
        result["error"] = type(error).__name__ + ": " + str(error)
    else:
        if module.split(".")[0] not in getattr(sys, "stdlib_module_names", ()):
            found = version_of(module)
            result["version"] = None if found is None else str(found)
    return result


def requirement_class():
    for name in ("packaging.requirements", "pip._vendor.packaging.requirements"):
        try:
            return importlib.import_module(name).Requirement
        except ImportError:
            continue
    return None


def lines_of(path, seen):
    """The lines of a requirements file and of those that it names by `-r`, without comments."""
    seen.add(os.path.realpath(path))
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            text = re.sub(r"(^|\s)#.*", "", line).strip()
            named = re.match(r"(?:--requirement|-r)[=\s]*(\S+)", text)
            if named is None:
                yield text
                continue
            other = os.path.join(os.path.dirname(path), named.group(1))
            # One that is elsewhere or is not there is pip's to report.
            if os.path.realpath(other) not in seen and os.path.isfile(other):
                yield from lines_of(other, seen)


def requirements(path):
    """Each line of a requirements file, and whether what is installed satisfies it."""
    from importlib import metadata

    Requirement = requirement_class()
    for text in lines_of(path, set()):
        if not text or text.startswith("-") or "://" in text or text.startswith((".", "/")):
            continue
        name = re.split(r"[\s\[<>=!~;@]", text)[0]
        satisfied, installed = True, None
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            satisfied = False
        if Requirement is not None:
            try:
                parsed = Requirement(text)
            except ValueError:
                continue
            if parsed.marker is not None and not parsed.marker.evaluate():
                continue
            if installed is not None:
                satisfied = parsed.specifier.contains(installed, prereleases=True)
        yield {"requirement": text, "installed": installed, "satisfied": satisfied}


def main():
    report_fd = os.dup(1)
    # What imports print is no report.
    os.dup2(2, 1)
    path, files = sys.argv[1], sys.argv[2:]
    sys.path[0] = os.path.dirname(os.path.abspath(path))
    os.environ["OSTLER_PREFLIGHT"] = "1"
    # For a worker that serves. What the SDK would do with them when it is imported is of no use here.
    transport = os.environ.pop("OSTLER_TRANSPORT", None)
    os.environ.pop("OSTLER_CORE", None)
    report = {"python": ".".join(map(str, sys.version_info[:3])), "modules": [], "requirements": [], "syntax_error": None}
    try:
        with open(path, "rb") as source:
            tree = ast.parse(source.read(), path)
    except SyntaxError as error:
        report["syntax_error"] = "line %s: %s" % (error.lineno, error.msg)
    else:
        seen = set()
        for module, line in imports(tree.body):
            if module not in seen:
                seen.add(module)
                report["modules"].append(try_import(module, line))
        if transport == "grpc" and "ostler_worker" in sys.modules and "grpc" not in seen:
            report["modules"].append(try_import("grpc", 0))
    for file in files:
        report["requirements"].extend(requirements(file))
    os.write(report_fd, json.dumps(report).encode())
    os._exit(0)


main()
