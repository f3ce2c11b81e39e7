"""A pickle machine that can only make data.

Pickle is a program that names functions and calls them. This machine knows the instructions that checkpoints need and
nothing else; where a program names a global, the exact pair (module, name) must be in a table of our own constructors,
which is also all that can ever be called. Nothing is imported, no attribute is looked up, no stored source text is
run. Byte strings stay in the file (`Span`) until someone wants them, so that a checkpoint can be described without
reading its weights.

Everything is bounded by the file's size and by `MOST_INSTRUCTIONS`, which all programs of a file share.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ..errors import InputError, shown

MOST_INSTRUCTIONS = 4_000_000
"""Of all programs in one file; the largest published checkpoint needs about 60,000."""
LONGEST_NAME = 4096
LARGEST_KEY = 2**31
"""Whole numbers beyond can be chosen to have one hash, 0 for every multiple of 2^61 - 1: n of them in a dictionary take
n^2 steps."""

Constructors = Mapping[tuple[str, str], Callable[..., Any] | None]
"""(module, name) -> our constructor of what it stands for; None for a symbol that may be mentioned, not called."""


class Damaged(Exception):
    """The program cannot be what it claims to be."""


class Unreadable(Exception):
    """The program may well be whole, but describes something that is not read here; the message says what."""


@dataclass
class Budget:
    """What the programs of one file may still cost, in instructions."""

    left: int = field(default_factory=lambda: MOST_INSTRUCTIONS)

    def spend(self, count: int) -> None:
        """
        Raises:
            Damaged: there is not that much left.
        """
        self.left -= count
        if self.left < 0:
            raise Damaged(f"more than {MOST_INSTRUCTIONS} instructions")


@dataclass(frozen=True)
class Span:
    """A byte string that stays in the file."""

    offset: int
    length: int


@dataclass(frozen=True)
class Symbol:
    """A global of the table."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Instance:
    """An object of a class of the table: what it is called and what it holds."""

    symbol: Symbol
    state: Any = None


@dataclass
class _Mark:
    """The start of a group on the stack."""


def check_keys(keys: Sequence[Any]) -> None:
    """Let nothing else be hashed than text and numbers of usual size.

    Hashing what is nested a million deep would overflow the stack; for large numbers see `LARGEST_KEY`.

    Raises:
        Unreadable: one is something else.
    """
    for key in keys:
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < LARGEST_KEY)):
            what = f"{type(key).__name__} {key}" if isinstance(key, int | float) else type(key).__name__
            raise Unreadable(f"holds a dictionary or set with a key that is no text: {shown(what)}")


@dataclass
class Machine:
    """Runs one pickle program.

    Args:
        file: seekable; read from its present position.
        end: position at which the program's surroundings end.
        what: how messages call the file.
        constructors: the table of globals.
        persistent: makes an object of a persistent id; without it there are none.
        budget: shared with the other programs of the file.
    """

    file: BinaryIO
    end: int
    what: str
    constructors: Constructors
    persistent: Callable[[Any], Any] | None = None
    budget: Budget = field(default_factory=Budget)
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._position = self.file.tell()

    def run(self) -> Any:
        """Execute up to STOP and return its result; the file is left behind it.

        Raises:
            InputError: a global outside the table, an instruction outside the set, or no valid pickle at all.
        """
        try:
            while True:
                self.budget.spend(1)
                code = self._take(1)
                if code == b".":
                    return self._pop()
                step = _INSTRUCTIONS.get(code)
                if step is None:
                    known = _NAMES.get(code.decode("latin-1"), repr(code))
                    raise InputError(
                        f"{self.what}: its pickle uses the instruction {known}, which no "
                        "checkpoint needs; refused, nothing was executed"
                    )
                step(self)
        except InputError:
            raise
        except Unreadable as error:
            raise InputError(
                f"{self.what}: {error}; save the weights alone, as in torch.save(model.state_dict(), path)"
            ) from error
        except Damaged as error:
            raise InputError(f"{self.what}: damaged or truncated pickle ({error})") from error
        except (
            IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError, struct.error
        ) as error:  # fmt: skip
            raise InputError(
                f"{self.what}: damaged or truncated pickle ({shown(str(error) or type(error).__name__)})"
            ) from error

    # Reading

    def _take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.end - self._position else b""
        if len(data) != count:
            raise Damaged("it ends too early")
        self._position += count
        return data

    def _number(self, layout: str) -> int:
        value: int = struct.unpack("<" + layout, self._take(struct.calcsize(layout)))[0]
        return value

    def _line(self) -> str:
        line = self.file.readline(LONGEST_NAME)
        self._position += len(line)
        if not line.endswith(b"\n") or self._position > self.end:
            raise Damaged("a name without an end")
        return line[:-1].decode("utf-8")

    def _text(self, layout: str) -> None:
        self.stack.append(self._take(self._number(layout)).decode("utf-8", "surrogatepass"))

    def _bytes(self, layout: str) -> None:
        length, offset = self._number(layout), self._position
        if length > self.end - offset:
            raise Damaged(f"a byte string of {length} bytes where {self.end - offset} are left")
        self._position = self.file.seek(offset + length)
        self.stack.append(Span(offset, length))

    def _integer(self) -> None:
        self.stack.append(int.from_bytes(self._take(self._number("B")), "little", signed=True))

    # The stack

    def _pop(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise Damaged("an empty stack")
        return self.stack.pop()

    def _group(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                group = self.stack[i + 1 :]
                del self.stack[i:]
                return group
        raise Damaged("a group without a mark")

    def _top(self, kind: type) -> Any:
        """The object that is being filled."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise Damaged(f"no {kind.__name__} to fill")
        return self.stack[-1]

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _fill(self, pairs: list[Any]) -> None:
        target = self._top(dict)
        if len(pairs) % 2:
            raise Damaged("a key without a value")
        check_keys(pairs[::2])
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _fill_set(self) -> None:
        group = self._group()
        check_keys(group)
        self._top(set).update(group)

    def _set_item(self) -> None:
        value = self._pop()
        self._fill([self._pop(), value])

    def _extend(self) -> None:
        group = self._group()
        self._top(list).extend(group)

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    # Objects

    def _symbol(self, module: object, name: object) -> None:
        if (module, name) not in self.constructors:
            raise InputError(
                f"{self.what}: its pickle asks for {shown(f'{module}.{name}')}, which is not on the list of what a "
                "checkpoint may name; refused, nothing was imported or executed; save the weights alone if you trust it"
            )
        self.stack.append(Symbol(str(module), str(name)))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("a global whose name is no text")
        self._symbol(module, name)

    def _global(self) -> None:
        module = self._line()
        self._symbol(module, self._line())

    def _reduce(self) -> None:
        arguments, symbol = self._pop(), self._pop()
        maker = self.constructors[(symbol.module, symbol.name)] if isinstance(symbol, Symbol) else None
        if maker is None or not isinstance(arguments, tuple):
            called = symbol if isinstance(symbol, Symbol) else f"a {type(symbol).__name__}"
            raise InputError(f"{self.what}: its pickle calls {called}, which is no function; refused")
        self.stack.append(maker(*arguments))

    def _new(self) -> None:
        arguments, symbol = self._pop(), self._pop()
        if not isinstance(symbol, Symbol) or arguments != ():
            raise Damaged("an object of what is no class")
        self.stack.append(Instance(symbol))

    def _build(self) -> None:
        state = self._pop()
        target = self._top(object)
        if isinstance(target, Instance):
            target.state = state
        elif not isinstance(target, dict):  # attributes of a dict (state_dict's `_metadata`) are not needed
            raise Damaged(f"attributes for a {type(target).__name__}")

    def _persistent(self) -> None:
        if self.persistent is None:
            raise Damaged("a persistent id where there are none")
        self.stack.append(self.persistent(self._pop()))

    def _remember(self, index: int) -> None:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            raise Damaged("nothing to remember")
        self.memo[index] = self.stack[-1]

    def _recall(self, index: int) -> None:
        self.stack.append(self.memo[index])


_NAMES = {instruction.code: instruction.name for instruction in pickletools.opcodes}
_INSTRUCTIONS: dict[bytes, Callable[[Machine], object]] = {
    b"\x80": lambda m: m._number("B"),  # PROTO
    b"\x95": lambda m: m._number("Q"),  # FRAME: only a hint for buffering
    b"(": lambda m: m.stack.append(_Mark()),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"J": lambda m: m.stack.append(m._number("i")),
    b"K": lambda m: m.stack.append(m._number("B")),
    b"M": lambda m: m.stack.append(m._number("H")),
    b"\x8a": lambda m: m._integer(),
    b"G": lambda m: m.stack.append(struct.unpack(">d", m._take(8))[0]),
    b"X": lambda m: m._text("I"),
    b"\x8c": lambda m: m._text("B"),
    b"\x8d": lambda m: m._text("Q"),
    b"B": lambda m: m._bytes("I"),
    b"C": lambda m: m._bytes("B"),
    b"\x8e": lambda m: m._bytes("Q"),
    b"}": lambda m: m.stack.append({}),
    b"]": lambda m: m.stack.append([]),
    b")": lambda m: m.stack.append(()),
    b"\x8f": lambda m: m.stack.append(set()),
    b"t": lambda m: m.stack.append(tuple(m._group())),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"a": lambda m: m._append(),
    b"e": lambda m: m._extend(),
    b"s": lambda m: m._set_item(),
    b"u": lambda m: m._fill(m._group()),
    b"\x90": lambda m: m._fill_set(),
    b"q": lambda m: m._remember(m._number("B")),
    b"r": lambda m: m._remember(m._number("I")),
    b"\x94": lambda m: m._remember(len(m.memo)),
    b"h": lambda m: m._recall(m._number("B")),
    b"j": lambda m: m._recall(m._number("I")),
    b"c": lambda m: m._global(),
    b"i": lambda m: m._global(),  # INST: names a class in the same way; nothing in our table fits its arguments
    b"\x93": lambda m: m._stack_global(),
    b"R": lambda m: m._reduce(),
    b"\x81": lambda m: m._new(),
    b"b": lambda m: m._build(),
    b"Q": lambda m: m._persistent(),
}
