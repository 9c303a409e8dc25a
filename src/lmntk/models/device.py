"""Where a network computes."""

from __future__ import annotations

import torch

from lmntk.errors import UserError
from lmntk.models.loading import Pretrained

AUTO = "auto"


def place(pretrained: Pretrained, device: str = AUTO) -> torch.device:
    """Moves a network to a device, in place, and returns the device; "auto" is the first GPU, or the processor where there is none.

    Raises:
        UserError: there is no such device here.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == AUTO else device
    try:
        found = torch.device(chosen)
        pretrained.network.to(found)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"device: {device!r} is not to be had here ({reason}); use cpu, or leave it out") from error
    return found
