"""Tools that look at a computation: anomaly detection, counts, figures, summaries, gradient checks.

They look on through `engine.instrument`, and cost nothing while they are not used. Begin with `gradcheck`, then
`anomaly`, which uses all that the instrument offers.
"""

from allgrad.autograd.tools.anomaly import detect_anomaly
from allgrad.autograd.tools.count import count_operations
from allgrad.autograd.tools.draw import draw_graph, to_dot
from allgrad.autograd.tools.gradcheck import gradcheck
from allgrad.autograd.tools.summary import summary
