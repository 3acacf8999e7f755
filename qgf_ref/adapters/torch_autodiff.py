"""PyTorch's side of an adapter. Imported by `qgf_ref.adapters.torch` alone, when it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.arrays import Array, real_dtype
from qgf_ref.errors import InputError
from qgf_ref.nets.products import MissingProduct
from qgf_ref.user_code import error_summary

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    raise InputError("qgf_ref.adapters.torch needs PyTorch: pip install torch") from error


class TorchCache(NamedTuple):
    """x, y with its graph, and y as a function of x."""

    x: Any
    y: Any
    of: Callable[[Any], Any]


class TorchFunction:
    """An `Autodiff` of a module, or of a function of tensors.

    Modules that a function refers to (its own attributes, closure, partial arguments and globals)
    tell dtype, device and mode. Raises InputError on one in training mode.
    """

    differenced: tuple[str, ...] = ()

    def __init__(self, function: Callable[..., Any], what: str, dtype: Any, device: Any) -> None:
        if not callable(function):
            raise InputError(
                f"{what} must be a module or a function, got {type(function).__name__}"
            )
        self.function, self.what = function, what
        for module in modules_of(function):
            training = [
                name or type(module).__name__ for name, m in module.named_modules() if m.training
            ]
            if training:
                raise InputError(
                    f"{what} is in training mode ({', '.join(training[:3])}): call .eval() first"
                )
        tensors = [
            p
            for module in modules_of(function)
            for p in (*module.parameters(), *module.buffers())
            if p.is_floating_point()
        ]
        own = tensors[0] if tensors else torch.zeros(())
        self.inner = _torch_dtype(dtype) or own.dtype
        self.device = torch.device(device) if device is not None else own.device
        if tensors and self.device.type != own.device.type:
            raise InputError(
                f"{what} is on {own.device} and device is {self.device}: move it with .to(device)"
            )
        self.dtype = real_dtype("float64" if self.inner == torch.float64 else "float32")
        self.outer = torch.float64 if self.dtype == np.float64 else torch.float32

    def observation(self, obs: Array) -> Any:
        """A tensor of the network's dtype, on its device."""
        return self._tensor(obs).to(self.inner)

    def _tensor(self, x: Array) -> Any:
        return torch.tensor(np.asarray(x), dtype=self.outer, device=self.device)

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, TorchCache]:
        """y, with its graph kept for the products.

        Raises InputError when the function raises, or returns what is no tensor of its device.
        """
        rest = () if time is None else (self._tensor(time),)

        def of(z: Any) -> Any:
            y = self.function(obs, z.to(self.inner), *rest)
            return y.to(self.outer) if isinstance(y, torch.Tensor) and y.is_floating_point() else y

        leaf = self._tensor(x).requires_grad_()
        try:
            with torch.enable_grad():
                y = of(leaf)
        except Exception as error:
            raise InputError(f"{self.what} raised {error_summary(error)}") from error
        if not isinstance(y, torch.Tensor):
            raise InputError(f"{self.what} must return a tensor, it returned {type(y).__name__}")
        if y.device.type != self.device.type:
            raise InputError(f"{self.what} returned a tensor on {y.device}, expected {self.device}")
        return y.detach().cpu().numpy(), TorchCache(leaf, y, of)

    def vjp(self, y_bar: Array, cache: TorchCache) -> Array:
        """By torch.autograd.grad."""
        x_bar = self._pulled(self._tensor(y_bar), cache, False)
        return np.zeros(tuple(cache.x.shape), self.dtype) if x_bar is None else self._numbers(x_bar)

    def _pulled(self, y_bar: Any, cache: TorchCache, differentiable: bool) -> Any:
        """None where y does not depend on x."""
        if not cache.y.requires_grad:
            raise MissingProduct(
                f"{self.what}'s result carries no gradient: it runs under torch.no_grad or "
                "inference_mode, or detaches; give a function that does not"
            )
        return torch.autograd.grad(
            cache.y, cache.x, y_bar, retain_graph=True, create_graph=differentiable,
            allow_unused=True,
        )[0]  # fmt: skip

    def jvp(self, x_dot: Array, cache: TorchCache) -> Array:
        """By forward mode; where an operation has none, as the vjp's derivative in its cotangent.

        Attention runs as plain operations, since the fused ones have no such products. Raises
        InputError where neither exists.
        """
        tangent = self._tensor(x_dot)
        try:
            with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                # of PyTorch's own: it compiles its rules by what it calls deprecated
                warnings.simplefilter("ignore", DeprecationWarning)
                y_dot = torch.func.jvp(cache.of, (cache.x.detach(),), (tangent,))[1]
            return self._numbers(y_dot)
        except (NotImplementedError, RuntimeError):
            return self._second_order("jvp", cache, None, tangent)

    def hvp(self, x_dot: Array, y_bar: Array, cache: TorchCache) -> Array:
        """By differentiating the vjp, attention as in `jvp`. Raises InputError where that fails."""
        return self._second_order("hvp", cache, self._tensor(y_bar), self._tensor(x_dot))

    def _second_order(self, name: str, cache: TorchCache, y_bar: Any, along: Any) -> Array:
        """The vjp's derivative along `along`: in x, or without a y_bar in the cotangent."""
        try:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                leaf = cache.x.detach().requires_grad_()
                again = TorchCache(leaf, cache.of(leaf), cache.of)
                bar = torch.zeros_like(again.y, requires_grad=True) if y_bar is None else y_bar
                x_bar = self._pulled(bar, again, True)
                of = bar if y_bar is None else leaf
                if x_bar is None or (y_bar is not None and not x_bar.requires_grad):
                    return np.zeros(tuple(of.shape), self.dtype)
                (result,) = torch.autograd.grad(x_bar, of, along, allow_unused=True)
                if result is None and (y_bar is None or _refuses(x_bar.grad_fn)):
                    raise RuntimeError("an operation's backward is differentiable only once")
        except RuntimeError as error:
            raise MissingProduct(
                f"{self.what} has no {name} in PyTorch ({' '.join(str(error).split())[:120]}): ask "
                f"for differences=({name!r},)"
            ) from error
        return np.zeros(tuple(of.shape), self.dtype) if result is None else self._numbers(result)

    def _numbers(self, x: Any) -> Array:
        numbers: Array = x.detach().to(self.outer).cpu().numpy()
        return numbers


def _torch_dtype(dtype: Any) -> Any:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    return torch.float64 if real_dtype(dtype).name == "float64" else torch.float32


def _refuses(node: Any) -> bool:
    """Whether a graph holds an operation that raises when it is differentiated: its result does not
    seem to depend on anything.
    """
    seen, waiting = set(), [node]
    while waiting:
        here = waiting.pop()
        if here is None or here in seen:
            continue
        if "Error" in here.name():
            return True
        seen.add(here)
        waiting += [function for function, _ in here.next_functions]
    return False


def modules_of(function: Any) -> list[Any]:
    """The modules that a function refers to: itself, or what it holds and names."""
    seen: dict[int, Any] = {}
    for value in _referred(function):
        if isinstance(value, torch.nn.Module):
            seen.setdefault(id(value), value)
    return list(seen.values())


def _referred(function: Any) -> Iterator[Any]:
    yield function
    if isinstance(function, partial):
        yield from _referred(function.func)
        yield from (*function.args, *function.keywords.values())
    yield getattr(function, "__self__", None)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    code, known = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    yield from (known[name] for name in getattr(code, "co_names", ()) if name in known)
    if not isinstance(function, torch.nn.Module) and hasattr(function, "__dict__"):
        yield from vars(function).values()
