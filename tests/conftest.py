"""Small things that many tests use. One thread: on busy cores, small models are many times faster with one."""

import torch

torch.set_num_threads(1)
