"""`allgrad study project`: how soon would a target be reached on more ranks than there are?"""

from allgrad.launch.study.experiments.project.extrapolation import run
