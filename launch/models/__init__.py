"""Models by name, see FAMILIES, or a class of the user's own as `PATH.py:CLASS`."""

from allgrad.launch.models.dense import ACTIVATIONS, Autoencoder
from allgrad.launch.models.families import FAMILIES, FORMS, INITS, Family
from allgrad.launch.models.families import build, family_of, hash_of_file, outputs_of, remark
