"""Read a pickle of nested dicts and arrays without running anything it names.

A pickle is a program for a stack machine that may name any function and call it. This is a machine
of our own for the part of that language which data needs. Names resolve to inert stand-ins or are
refused by name; keys are strings; work and memory are bounded by the size of the file. JAX arrays
come out as NumPy arrays, and JAX is not needed. Known streams: JAX 0.4 to 0.10, NumPy 1.x and 2.x,
pickle protocols 2 to 5.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgf_ref.errors import InputError, listing
from qgf_ref.interop.pickle_names import (
    WHITELIST,
    ArrayStandIn,
    DtypeStandIn,
    Inert,
    Name,
    Names,
    PassedOver,
    Refused,
    passed_over,
)

MAX_DEPTH = 64
_MARK = object()

# fmt: off
_PUSH_ARGUMENT = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINSTRING",
))
# fmt: on
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": PassedOver,
}


@dataclass(frozen=True)
class Dialect:
    """What a library's streams may contain beyond nested dicts and lists.

    names       the names it may use
    persistent  what a persistent id stands for; None if there are none
    lenient     whether attributes set on a mapping are passed over
    inert       whether another name, and whatever is made of it, is passed over
    way_out     how to save the weights alone, for the message that refuses a file
    """

    names: Names
    persistent: Callable[[Any], Any] | None = None
    lenient: bool = False
    inert: Callable[[str], bool] = passed_over
    way_out: str = (
        "to .npz where it was written: tree = flax.serialization.to_state_dict(pickle.load(open(F, "
        "'rb'))); numpy.savez(G, **flax.traverse_util.flatten_dict(tree, sep='/'))"
    )


NUMPY = Dialect(WHITELIST)


class _Machine:
    """The stack machine: one method for each kind of opcode, and nothing else is understood."""

    def __init__(self, size: int, dialect: Dialect) -> None:
        self.dialect = dialect
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = 2 * size + 4096  # legitimate arrays stand in the file byte for byte

    def run(self, data: bytes) -> Any:
        for opcode, arg, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                if len(self.stack) != 1:
                    raise ValueError("the stream ends with values left over")
                return self.stack.pop()
            self.step(name, arg)
        raise ValueError("the stream does not end")

    def step(self, name: str, arg: Any) -> None:
        push = self.stack.append
        if name in _PUSH_ARGUMENT:
            push(arg)
        elif name in _PUSH_NEW:
            push(_PUSH_NEW[name]())
        elif name in ("PROTO", "FRAME"):
            return
        elif name == "TUPLE":
            push(tuple(self.to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self.pop(int(name[-1]))))
        elif name in ("APPEND", "APPENDS"):
            self.extend(self.pop(1) if name == "APPEND" else self.to_mark())
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items(self.pop(2) if name == "SETITEM" else self.to_mark())
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[arg])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            push(self.name(*(arg.split(" ", 1) if name == "GLOBAL" else self.pop(2))))
        elif name in ("ADDITEMS", "FROZENSET"):
            self.to_mark()
            push(PassedOver() if name == "FROZENSET" else self.pop(1)[0])
        elif name in ("REDUCE", "NEWOBJ"):
            function, args = self.pop(2)
            push(self.call(function, args, new=name == "NEWOBJ"))
        elif name == "BUILD":
            self.build(self.pop(1)[0])
        elif name == "BINPERSID" and self.dialect.persistent is not None:
            push(self.dialect.persistent(self.pop(1)[0]))
        else:
            raise Refused(f"the pickle instruction {name}")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("a value is missing on the stack")
        return self.stack[-1]

    def pop(self, count: int) -> list[Any]:
        taken = [self.stack.pop() for _ in range(count) if self.top() is not _MARK]
        return taken[::-1]

    def to_mark(self) -> list[Any]:
        taken = []
        while self.stack[-1] is not _MARK:
            taken.append(self.stack.pop())
        self.stack.pop()
        return taken[::-1]

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif not isinstance(target, PassedOver):
            raise ValueError("values appended to what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, PassedOver):
            return
        if type(target) is not dict or len(items) % 2:
            raise ValueError("items set on what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def name(self, module: Any, attribute: Any) -> Inert:
        full = f"{module}.{attribute}"
        if isinstance(module, str) and isinstance(attribute, str):
            if full in self.dialect.names:
                return Name(full)
            if self.dialect.inert(full):
                return PassedOver()
        raise Refused(f"the name {listing([full])}")

    def call(self, function: Any, args: Any, new: bool) -> Any:
        if isinstance(function, PassedOver):
            return PassedOver()
        if new:
            raise Refused("an object of a class")
        call = self.dialect.names.get(function.full) if isinstance(function, Name) else None
        if call is None or type(args) is not tuple:
            shown = function.full if isinstance(function, Name) else type(function).__name__
            raise Refused(f"a call of {shown}")
        try:
            result = call(*args)
        except TypeError:
            raise Refused(f"a call of {function.full} that its library does not make") from None
        self.charge(result)
        return result

    def build(self, state: Any) -> None:
        target = self.top()
        if isinstance(target, PassedOver):
            return
        if self.dialect.lenient and type(target) is dict and type(state) is dict:
            return  # PyTorch notes the versions of its modules as an attribute of a state dict
        if not isinstance(target, ArrayStandIn | DtypeStandIn):
            shown = target.full if isinstance(target, Name) else type(target).__name__
            raise Refused(f"a change of {shown}")
        target.set_state(state)
        self.charge(target)

    def charge(self, built: Any) -> None:
        if isinstance(built, ArrayStandIn) and built.value is not None:
            self.bytes_left -= built.value.nbytes
        if self.bytes_left < 0:
            raise Refused("more bytes of arrays than the file has")


def _key(key: Any) -> str | int | float | None:
    """A key of a dict, without axes; of several parts (`flax.traverse_util.flatten_dict`), joined.

    Whatever else can be a key tells of no weight: a dtype, a device.
    """
    if key is None or isinstance(key, str | int | float):
        return key
    if isinstance(key, PassedOver | bytes):
        return f"<{type(key).__name__}>"
    if isinstance(key, tuple) and key and all(isinstance(part, str | int) for part in key):
        return ".".join(map(str, key))
    raise Refused(f"a dict with a key of type {type(key).__name__}")


_MALFORMED = (ValueError, LookupError, UnicodeError, OverflowError, MemoryError)


def read_pickle(path: Path) -> Any:
    """The nested dicts, lists, numbers and NumPy arrays of the pickle at `path`.

    Raises InputError when the stream contains anything else (stating what), when it is truncated
    or malformed, or when the file cannot be read. Nothing in the stream is executed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return parse_pickle(data, str(path), len(data))


def parse_pickle(data: bytes, source: str, size: int, dialect: Dialect = NUMPY) -> Any:
    """`read_pickle` of a stream in memory.

    source   the file's name in errors
    size     bytes of the whole file: it bounds the arrays that may come out of it
    dialect  the library whose streams are understood
    """
    try:
        with warnings.catch_warnings():
            # pickletools decodes the text of instructions that are refused afterwards, and warns
            # of its odd escapes
            warnings.simplefilter("ignore", DeprecationWarning)
            return _Plain().convert(_Machine(size, dialect).run(data), 0)
    except Refused as refused:
        raise InputError(
            f"{source} is refused: it contains {refused}, which an array file does not need. "
            f"Nothing in it was executed. If you trust the file, convert it {dialect.way_out}."
        ) from refused
    except _MALFORMED as error:
        detail = listing([f"{type(error).__name__}: {error}"])
        raise InputError(
            f"{source} is no readable pickle: truncated or corrupt ({detail})"
        ) from error


class _Plain:
    """Stand-ins replaced by what they stand for; a node that occurs often is converted once."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}

    def convert(self, node: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Refused(f"values nested more than {MAX_DEPTH} deep")
        if isinstance(node, PassedOver):
            return None
        if isinstance(node, Inert):
            raise Refused("a bare type or function as a value")
        if isinstance(node, ArrayStandIn):
            if node.text:
                return None
            if node.value is None:
                raise Refused("an array without contents")
            return node.value.astype(node.value.dtype.newbyteorder("="), copy=False)
        if not isinstance(node, dict | list | tuple):
            return node
        if id(node) not in self.done:
            self.done[id(node)] = None  # a cycle ends here, as None
            if isinstance(node, dict):
                plain: Any = {k: self.convert(v, depth + 1) for k, v in node.items()}
            else:
                plain = [self.convert(v, depth + 1) for v in node]
            self.done[id(node)] = plain
        return self.done[id(node)]
