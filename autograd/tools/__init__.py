"""What one looks at a computation with: anomalies, counts, figures, summaries, gradient checks."""

from allgrad.autograd.tools.anomaly import detect_anomaly
from allgrad.autograd.tools.count import count_operations
from allgrad.autograd.tools.draw import draw_graph, to_dot
from allgrad.autograd.tools.gradcheck import gradcheck
from allgrad.autograd.tools.summary import summary
