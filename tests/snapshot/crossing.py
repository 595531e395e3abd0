"""Cells whose state one Python saves and another restores: see `pythons`. No libraries, no syntax newer than 3.10."""

BEFORE = """
import collections, contextlib, dataclasses, decimal, enum, functools, pathlib, random, re, threading, typing, weakref
def pair():
    n = 0
    def up():
        nonlocal n
        n += 1
        return n
    class Reader:
        def get(self): return n
        def me(self): return __class__
    return up, Reader()
up, reader = pair(); up()
k = 1
def reads_a_global(x, *more, y: int = 3, **rest): return x * k + y
table = {'double': lambda x: 2 * x, 'nested': [lambda a: [a + i for i in range(3)]]}
@functools.lru_cache
def cached(n): return [n]
first = cached(1)
def steps():
    for i in range(3):
        try: yield i
        finally: pass
async def later(): return k
@contextlib.contextmanager
def inside(): yield k
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    tags: list = dataclasses.field(default_factory=list, compare=False)
@dataclasses.dataclass(slots=True)
class Slotted: a: object = None
class Color(enum.Enum):
    RED = 1
    BLUE = 2
    def hi(self): return self.name, k
class Mode(enum.IntFlag): R = 1; W = 2
Pair = collections.namedtuple('Pair', 'a b')
class Typed(typing.NamedTuple): a: int = 4
class Base:
    registry = []
    def __init_subclass__(cls, **kw): super().__init_subclass__(); Base.registry.append(cls)
    @property
    def p(self): return k
    @classmethod
    def c(cls): return cls
class Sub(Base, flag=1):
    def hi(self): return super().c(), __class__
class Node:
    def __init__(self, n): self.n = n; self.near = {self}; self.frozen = frozenset([self]); self.by = {(self, 1): 'x'}
    def __hash__(self): return hash(self.n)
    def __eq__(self, other): return isinstance(other, Node) and self.n == other.n
node = Node(5); point = Point(1); slotted = Slotted(point); sub = Sub(); color = {Color.RED: Color.BLUE}; mode = Mode.R | Mode.W
couple = Pair(1, [2]); typed = Typed(); deep = []
for _ in range(5_000): deep = [deep]
weak = weakref.WeakValueDictionary({'p': point}); path = pathlib.Path('a/b'); pattern = re.compile('a+'); number = decimal.Decimal('1.5')
stream = random.Random(3); drawn = stream.getstate(); lock = threading.Lock(); box = {'lock': lock, 'point': point}
try:
    try: 1 / 0
    except ZeroDivisionError as error: raise KeyError('k') from error
except KeyError as error: failure = error
"""

AFTER = """
import asyncio
assert up() == 2 and reader.get() == 2 and reader.me() is type(reader)
k = 10
assert reads_a_global(1) == 13 and table['double'](4) == 8 and table['nested'][0](1) == [1, 2, 3] and cached(1) is first
assert list(steps()) == [0, 1, 2] and asyncio.run(later()) == 10
with inside() as it: assert it == 10
assert point == Point(1) and slotted.a is point is weak['p'] is box['point'] and hash(point) == hash(Point(1)) and Slotted(3).a == 3
assert color[Color.RED] is Color.BLUE and Color.RED.hi() == ('RED', 10) and mode == Mode(3) and Mode.R in mode
assert couple == Pair(1, [2]) and type(couple) is Pair and typed.a == 4 and type(typed) is Typed
assert sub.hi() == (Sub, Sub) and Base.registry == [Sub] and sub.p == 10
class Later(Base): pass
assert Base.registry == [Sub, Later]
assert node in node.near and node in node.frozen and node.by[node, 1] == 'x' and Node(5) in node.near
levels = 0
while deep: deep = deep[0]; levels += 1
assert levels == 5_000 and path.name == 'b' and pattern.match('aa') and number * 2 == 3 and stream.getstate() == drawn
assert type(failure) is KeyError and type(failure.__cause__) is ZeroDivisionError and box['lock'] is lock and 'lost' in repr(lock)
"""
