"""A device of our own: the CPU in disguise.

On a machine without a GPU everything lies on one device, and a forgotten `.to(device)` shows only
where there are two. PyTorch keeps a place for a device that it does not know (`PrivateUse1`) and
lets it be written in Python. A tensor on this one holds an ordinary tensor, and the CPU does every
operation, but like a GPU it

- does not mix with tensors of the CPU (except numbers without dimensions, and as an index),
- takes no noise from a generator of the CPU,
- becomes a numpy array only after `.cpu()`.

Where there is a GPU, the tests take it, and no disguise is made. A device that was registered stays
until the process ends: use this module in a process of its own.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate.state import AcceleratorState, PartialState
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default}


class Backend:
    """What PyTorch and other libraries ask a device for."""

    def get_amp_supported_dtype():
        return [torch.bfloat16, torch.float16]

    def is_available():
        return True

    def empty_cache():
        pass

    def manual_seed_all(seed):
        pass

    def _is_in_bad_fork():
        return False

    def current_device():
        return 0

    def device_count():
        return 1


GPU = torch.cuda.is_available()
if GPU:
    torch.backends.cudnn.allow_tf32 = False  # rounds to ten bits: here arithmetic is compared
else:
    backend_registration._setup_privateuseone_for_python_backend("disguise", backend_module=Backend)
THERE = torch.device("cuda" if GPU else "disguise", 0)


class There(torch.Tensor):
    """A tensor on the device `disguise`; `inner` is the ordinary tensor inside."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=THERE,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"{self.inner}, {THERE.type}"

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {THERE} device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return compute(op, args, kwargs or {})


def unwrapped(value):
    return value.inner if isinstance(value, There) else value


def refuse_mixing(op, tensors):
    """As a GPU does: an operation takes tensors of one device."""
    on_device = [a for a in tensors if isinstance(a, There)]
    on_cpu = [a for a in tensors if not isinstance(a, There) and a.ndim]
    if on_device and on_cpu and op not in MOVES and "index" not in str(op):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, {op} was given "
            f"{tuple(on_cpu[0].shape)} on cpu and {tuple(on_device[0].shape)} on {THERE}"
        )


def is_result_there(op, args, kwargs) -> bool:
    """Is the result of an operation a tensor on the device?"""
    if op is aten._local_scalar_dense.default:  # .item()
        return False
    if op is aten.copy_.default:
        return isinstance(args[0], There)
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == THERE.type
    return any(isinstance(a, There) for a in tree_leaves((args, kwargs)))


def compute(op, args, kwargs):
    """Any operation, by the CPU, unless it breaks a rule of devices."""
    tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
    refuse_mixing(op, tensors)
    result_there = is_result_there(op, args, kwargs)
    if result_there and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a {THERE.type!r} generator but found 'cpu'")
    if kwargs.get("device") is not None:
        kwargs = kwargs | dict(device=torch.device("cpu"))
    out = op(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    # what is changed in place stays the same tensor
    same = {id(a.inner): a for a in tensors if isinstance(a, There)}

    def wrapped(o):
        if id(o) in same:
            return same[id(o)]
        return There(o) if isinstance(o, torch.Tensor) else o

    return tree_map(wrapped, out) if result_there else out


class Mode(TorchDispatchMode):
    """While it is open, tensors can be made on the device."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return compute(op, args, kwargs or {})


def _empty(size, stride, *, dtype=None, **_):
    return There(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source, target, non_blocking=False):
    target.inner.copy_(unwrapped(source))
    return target


# below every mode: what torch.tensor(…, device=…) uses
_library = torch.library.Library("aten", "IMPL")
if not GPU:
    _library.impl("empty_strided", _empty, "PrivateUse1")
    _library.impl("_copy_from", _copy, "PrivateUse1")

Disguise = nullcontext if GPU else Mode


def at(device: torch.device | str, fn: Callable):
    """What a function of the device returns there."""
    AcceleratorState._reset_state(True)  # accelerate's own choice would be the CPU
    PartialState(cpu=not GPU or device == "cpu")
    PartialState._shared_state["device"] = torch.device(device)
    try:
        with nullcontext() if device == "cpu" else Disguise():
            return fn(device)
    finally:
        AcceleratorState._reset_state(True)


def on_both(fn: Callable) -> tuple[dict, dict]:
    """What a function returns on the CPU and on the other device: dictionaries of tensors."""
    return at("cpu", fn), at(THERE, fn)


def differences(on_cpu: dict, on_device: dict) -> dict[str, float]:
    """The largest difference of each entry."""
    return {
        k: (torch.as_tensor(on_cpu[k]) - torch.as_tensor(on_device[k]).cpu()).abs().max().item()
        for k in on_cpu
    }
