"""One module under several names: `allgrad.nn` is `allgrad.autograd.nn`, and in a checkout `ddp` is `allgrad.ddp`.

Python takes a second name for a second module, runs its file again, and has two of every class. Here a module that is
imported by another name is looked up under its own.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys

OWN_NAMES = {  # another name -> its own; those of a checkout's folders are added by the folders, see `also_known_as`
    "allgrad.nn": "allgrad.autograd.nn",
    "allgrad.optim": "allgrad.autograd.optim",
    "allgrad.study": "allgrad.launch.study",
}


class _OtherNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by another name, and those inside of them."""

    def __init__(self):
        self.specs = {}  # of modules that are being found

    def find_spec(self, fullname, path=None, target=None):
        above, inside = fullname, ""
        while above and above not in OWN_NAMES:
            above, _, last = above.rpartition(".")
            inside = f".{last}{inside}"
        if not above or fullname.endswith(".__main__"):  # which runs under a name of its own
            return None
        spec = importlib.machinery.ModuleSpec(fullname, self)
        spec.loader_state = OWN_NAMES[above] + inside
        return spec

    def create_module(self, spec):
        module = importlib.import_module(spec.loader_state)
        self.specs[module] = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self.specs.pop(module)  # the import system has put that of the other name there


def also_known_as(name: str):
    """Let the module `allgrad.NAME` answer to NAME as well: for the folders of a checkout."""
    OWN_NAMES[name] = f"allgrad.{name}"
    sys.modules[name] = importlib.import_module(f"allgrad.{name}")


sys.meta_path.insert(0, _OtherNames())
