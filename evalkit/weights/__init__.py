"""Everything that touches model weights: loading, the five verbs, fine-tuning, export.

torch and its company are imported inside functions, so importing these modules costs nothing.
"""

import logging
import os

# Threads of torch that wait for each other shall sleep. By default they spin, which makes training
# many times slower on a CPU that something else uses too. OpenMP reads this when torch is
# imported, so it must be said before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# peft imports torchao where that is installed, and it warns of kernels that this machine has not.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
