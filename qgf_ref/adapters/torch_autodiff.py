"""PyTorch's side of an adapter. Imported by `qgf_ref.adapters.torch` alone, when it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from qgf_ref.adapters.autodiff import raised, wrote
from qgf_ref.adapters.observations import leaves
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
    tell dtype (the widest of their parameters), device and mode. Raises InputError on one in
    training mode, and on a dtype or device that is none.
    """

    differenced: tuple[str, ...] = ()
    graph = True

    def __init__(self, function: Callable[..., Any], what: str, dtype: Any, device: Any) -> None:
        if not callable(function) or isinstance(function, type):
            kind = "the class " if isinstance(function, type) else ""
            raise InputError(
                f"{what} must be a module or a function, got {kind}"
                f"{getattr(function, '__name__', type(function).__name__)}"
            )
        self.function, self.what = function, what
        modules = modules_of(function)
        for module in modules:
            training = [
                name or type(module).__name__ for name, m in module.named_modules() if m.training
            ]
            if training:
                raise InputError(
                    f"{what} is in training mode ({', '.join(training[:3])}): call .eval() first"
                )
        # buffers only where there are no parameters: tables of a half-precision model are float32
        tensors = [p for m in modules for p in m.parameters() if p.is_floating_point()] or [
            b for m in modules for b in m.buffers() if b.is_floating_point()
        ]
        own = tensors[0] if tensors else torch.zeros(())
        kinds = sorted({t.dtype for t in tensors}, key=_eps)
        self.kinds = list(map(_name, kinds))
        self.inner = [*kinds, own.dtype][0] if dtype is None else _torch_dtype(dtype)
        self.device = own.device if device is None else _device(device)
        if tensors and self.device.type != own.device.type:
            raise InputError(
                f"{what} is on {own.device} and device is {self.device}: move it with .to(device)"
            )
        if self.device.type == "meta":
            raise InputError(f"{what} is on the meta device, which holds no numbers")
        self.dtype = real_dtype("float64" if self.inner == torch.float64 else "float32")
        self.precision = _name(max((self.inner, *kinds), key=_eps))
        self.outer = torch.float64 if self.dtype == np.float64 else torch.float32

    def observation(self, obs: Array) -> Any:
        """A tensor of the network's dtype, on its device."""
        return self._tensor(obs).to(self.inner)

    def _tensor(self, x: Array) -> Any:
        # a copy, as torch.tensor makes one, in a tenth of its time
        return torch.from_numpy(np.array(x, self.dtype, order="C")).to(self.device)

    def forward(self, obs: Any, x: Array, time: Array | None) -> tuple[Array, TorchCache]:
        """y, with its graph kept for the products.

        Raises InputError when the function raises, returns what is no tensor of its device, or
        writes into its observations, which the products ask it with again.
        """
        rest = () if time is None else (self._tensor(time),)
        before = _versions(obs)

        def of(z: Any) -> Any:
            y = self.function(obs, z.to(self.inner), *rest)
            return y.to(self.outer) if isinstance(y, torch.Tensor) and y.is_floating_point() else y

        with torch.inference_mode(False):  # a caller's, whose tensors have no gradients
            leaf = self._tensor(x).requires_grad_()
        try:
            with torch.inference_mode(False), torch.set_grad_enabled(self.graph):
                y = of(leaf)
        except Exception as error:
            raise raised(self.what, error, self._hint()) from error
        if _versions(obs) != before:
            raise wrote(self.what)
        if not isinstance(y, torch.Tensor):
            raise InputError(f"{self.what} must return a tensor, it returned {type(y).__name__}")
        if y.device.type != self.device.type:
            raise InputError(f"{self.what} returned a tensor on {y.device}, expected {self.device}")
        return y.detach().cpu().numpy(), TorchCache(leaf, y, of)

    def _hint(self) -> str:
        inner = _name(self.inner)
        if self.kinds in ([], [inner]):
            return ""
        return f"; it is given {inner}, its parameters are {' and '.join(self.kinds)}: see dtype=…"

    def forward_only(self) -> TorchFunction:
        """A copy that builds no graph, as under no_grad."""
        plain = copy(self)
        plain.graph = False
        return plain

    def redrawn(self, cache: TorchCache) -> bool:
        """Nothing is traced."""
        return False

    def vjp(self, y_bar: Array, cache: TorchCache) -> Array:
        """By torch.autograd.grad. Raises InputError where that fails."""
        try:
            x_bar = self._pulled(self._tensor(y_bar), cache, False)
        except RuntimeError as error:
            raise InputError(f"the vjp of {self.what} raised {error_summary(error)}") from error
        return np.zeros(tuple(cache.x.shape), self.dtype) if x_bar is None else self._numbers(x_bar)

    def _pulled(self, y_bar: Any, cache: TorchCache, differentiable: bool) -> Any:
        """None where y does not depend on x."""
        if not self.graph and not differentiable:
            with torch.inference_mode(False), torch.enable_grad():
                cache = cache._replace(y=cache.of(cache.x))
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


def _device(device: Any) -> Any:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"device must be one of PyTorch's, got {device!r}: {said}") from None


def _versions(obs: Any) -> list[int]:
    """How often each tensor was written into, as far as PyTorch counts it."""
    arrays = (array for _, array in leaves(obs))
    return [a._version for a in arrays if isinstance(a, torch.Tensor) and not a.is_inference()]


def _eps(dtype: Any) -> float:
    return float(torch.finfo(dtype).eps)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _torch_dtype(dtype: Any) -> Any:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype in ("float16", "bfloat16"):
        return getattr(torch, dtype)
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
    """The modules that a function refers to: itself, or what it holds and names, within reason."""
    seen: dict[tuple[int, frozenset[str]], Any] = {}
    waiting: list[tuple[Any, set[str], int]] = [(function, set(), DEEP)]
    while waiting:
        value, names, depth = waiting.pop(0)
        module = isinstance(value, torch.nn.Module)
        key = id(value), frozenset() if module else frozenset(names)
        if key in seen or depth < 0:
            continue
        seen[key] = value
        if not module:
            waiting += [(inner, named, depth - 1) for inner, named in _referred(value, names)]
    return [value for value in seen.values() if isinstance(value, torch.nn.Module)]


DEEP, MANY = 4, 64
"""How far modules are looked for: a method, of an object, with a list, of modules."""


def _referred(value: Any, names: set[str]) -> Iterator[tuple[Any, set[str]]]:
    """What a function or a short container holds, and an object under the names that the function
    has in its code; each with these names.
    """
    if isinstance(value, Mapping | list | tuple | set):
        within = value.values() if isinstance(value, Mapping) else value
        yield from ((inner, names) for inner in list(within)[:MANY])
    elif isinstance(value, partial):
        yield from ((v, names) for v in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield value.__func__, names
        yield value.__self__, _names(getattr(value.__func__, "__code__", None))
    elif isinstance(value, FunctionType):
        own = _names(value.__code__)
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                yield cell.cell_contents, own
        yield from ((value.__globals__[n], own) for n in own if n in value.__globals__)
    elif not isinstance(value, type | ModuleType):
        held, methods = getattr(value, "__dict__", {}), vars(type(value))
        call = methods.get("__call__")
        named = names | _names(getattr(call, "__code__", None))
        yield from ((inner, named) for n, inner in held.items() if n in named)
        yield from (
            (MethodType(m, value), named)
            for n, m in methods.items()
            if n in named and isinstance(m, FunctionType)
        )


def _names(code: CodeType | None) -> set[str]:
    """That the code names, and the functions inside of it."""
    if code is None:
        return set()
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_names, inner))
