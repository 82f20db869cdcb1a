"""One module under several names: `allgrad.nn` is `allgrad.autograd.nn`, and in a checkout `ddp` is `allgrad.ddp`.

Python takes a second name for a second module, runs its file again, and has two of every class. Here a module that is
imported by another name is looked up under its own. The parts of a checkout, which lie beside this folder and not in
it, are found there.
"""

import importlib
import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

PARTS = {"allgrad.autograd", "allgrad.ddp", "allgrad.launch"}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OWN_NAMES = {  # another name -> its own; those of a checkout's folders are added by the folders, see `also_known_as`
    "allgrad.nn": "allgrad.autograd.nn",
    "allgrad.optim": "allgrad.autograd.optim",
    "allgrad.study": "allgrad.launch.study",
}


def _own_name(name):
    """The own name of the module that is asked for by this one, or None if this is it."""
    above, inside = name, ""
    while above and above not in OWN_NAMES:
        above, _, last = above.rpartition(".")
        inside = f".{last}{inside}"
    return OWN_NAMES[above] + inside if above else None


class _OtherNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by another name, and those inside of them."""

    def __init__(self):
        self.specs = {}  # own name -> the module's spec

    def find_spec(self, fullname, path=None, target=None):
        own = _own_name(fullname)
        if own is None:
            return None
        if fullname in OWN_NAMES:
            return ModuleSpec(fullname, self, loader_state=own, is_package=True)
        spec = PathFinder.find_spec(own, path)  # imports nothing: another thread may hold what this one would wait for
        if spec is None:
            return None
        is_package = spec.submodule_search_locations is not None
        return ModuleSpec(fullname, self, origin=spec.origin, loader_state=own, is_package=is_package)

    def create_module(self, spec):
        module = importlib.import_module(spec.loader_state)
        self.specs.setdefault(spec.loader_state, module.__spec__)
        return module

    def exec_module(self, module):
        module.__spec__ = self.specs[module.__name__]  # the import system has put that of the other name there

    def get_code(self, fullname):
        """What `python -m` runs of a module by another name."""
        own = _own_name(fullname) or fullname
        spec = importlib.util.find_spec(own)
        return spec and spec.loader and spec.loader.get_code(own)


class _Checkout(importlib.abc.MetaPathFinder):
    """Finds the parts that are not in this folder beside it."""

    def find_spec(self, fullname, path=None, target=None):
        return PathFinder.find_spec(fullname, [ROOT]) if fullname in PARTS else None


def also_known_as(name: str):
    """Let the module `allgrad.NAME` answer to NAME as well: for the folders of a checkout."""
    OWN_NAMES[name] = f"allgrad.{name}"
    sys.modules[name] = importlib.import_module(f"allgrad.{name}")


sys.meta_path.insert(0, _OtherNames())
sys.meta_path.append(_Checkout())
