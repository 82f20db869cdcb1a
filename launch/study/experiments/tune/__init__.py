"""`allgrad study tune`: which hyper-parameters are best, and how much does each of them matter?"""

from allgrad.launch.study.experiments.tune.search import run
