"""What a training step costs in seconds, on the ranks that are here and on any number of others.

cost_model   closed forms: all-reduce, overlap, stragglers, time to a target
measure      times of real ranks
calibrate    the numbers of the cost model, from measured times
replay       a recorded backward pass with the exchange of its buckets
projection   time to a target on W ranks
"""
