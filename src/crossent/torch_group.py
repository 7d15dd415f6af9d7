"""What the processes of a group tell each other: that they agree, and tensors of one shape."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TEXT = 4096  # bytes that ranks tell each other before they compute
OTHER = "other"
ERRORS = {"type": TypeError, "value": ValueError, OTHER: RuntimeError}


def agree(prepare: Callable[[], Any], group: Any, like: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return what prepare() returns, and what it tells on every rank; raise on all or on none."""
    _be_member(group)
    call = None
    try:
        call = prepare()
        mine = call.tell()
    except Exception as error:  # whatever it is: the other ranks wait for what this one says
        text = str(error).encode("ascii", "replace").decode()[: TEXT // 8]  # each may take 6 bytes
        mine = {"error": text, "kind": _kind(error)}
    said = _exchange_texts(mine, group, like)
    _raise_what_is_wrong(said)
    return call, said


def _raise_what_is_wrong(said: list[dict[str, Any]]) -> None:
    """Raise the error of a rank, or what two of them disagree on."""
    for rank, each in enumerate(said):
        if "error" in each:
            raise ERRORS[each["kind"]](f"rank {rank} of the group: {each['error']}")
    for rank, each in enumerate(said):
        for name in said[0]:
            if name != "width" and each[name] != said[0][name]:
                raise ValueError(
                    f"{name} is {said[0][name]} on rank 0 of the group, but {each[name]} on rank "
                    f"{rank}; it must be the same on every rank"
                )


def _kind(error: Exception) -> str:
    """Return the name that an error goes by among ranks."""
    return next((name for name, kind in ERRORS.items() if isinstance(error, kind)), OTHER)


def _be_member(group: Any) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "torch.distributed is not initialised; call torch.distributed.init_process_group first"
        )
    if dist.get_rank(group) < 0:
        raise RuntimeError("this process is not in the group; only its members may call")


def _exchange_texts(mine: dict[str, Any], group: Any, like: Any) -> list[dict[str, Any]]:
    """Return what every rank says, in one collective of a fixed size."""
    text = torch.frombuffer(bytearray(json.dumps(mine).encode().ljust(TEXT)), dtype=torch.uint8)
    texts = exchange(text.to(like.device) if isinstance(like, Tensor) else text, group)
    return [json.loads(bytes(each)) for each in texts.cpu().numpy()]


def exchange(tensor: Tensor, group: Any) -> Tensor:
    """Return the tensors of all ranks, stacked."""
    sent = tensor.to(_place(tensor, group)).contiguous()
    found = sent.new_empty((dist.get_world_size(group), *sent.shape))
    dist.all_gather(list(found.unbind()), sent, group=group)
    return found.to(tensor.device)


def _place(tensor: Tensor, group: Any) -> torch.device:
    """Return the device on which a group can exchange a tensor."""
    backend = dist.get_backend(group)
    if backend == "gloo":
        return torch.device("cpu")
    return torch.device("cuda") if backend == "nccl" and not tensor.is_cuda else tensor.device


def checksum(tensor: Tensor) -> str:
    """Return what tells a tensor from others."""
    memory = tensor.detach().double().cpu() if tensor.is_floating_point() else tensor.cpu()
    return f"{list(tensor.shape)} of checksum {zlib.crc32(memory.numpy().tobytes()):08x}"
