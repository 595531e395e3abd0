"""Failed logins make the next attempt wait. Pure: time is an argument, nothing is stored.

Three counters, because each alone can be walked around or turned against a user:

- *name and address* grows first and longest: the plain guesser at one account.
- *address* stops one guesser who tries many names. It allows more, for an office often has one address.
- *name* stops many addresses that guess at one account. Its wait is short, because anybody who knows a
  name can make it grow.

So an attacker cannot lock a user out for long: from an address at which the name has logged in before, only
the first counter applies (an idea of OWASP's "device cookies", kept by address instead of a cookie); from a
new address a user waits at most `NAME.longest_seconds`. What remains: somebody who shares the user's
address *and* attacks the name delays it, by `NAME_AT_ADDRESS.longest_seconds` an attempt. The counters
are the hub process's own and start anew with it.

With waits at their longest an account sees some 60 guesses an hour from everywhere together, which is
below OWASP ASVS's 100 and nothing against a password of 12 characters.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_ENTRIES = 10_000


@dataclass(frozen=True)
class Rule:
    """How a counter grows into a wait."""

    free: int
    """Attempts that may fail before anybody waits."""
    first_seconds: float
    """The first wait; each further failure doubles it."""
    longest_seconds: float

    def wait_seconds(self, failures: int) -> float:
        over = failures - self.free
        if over <= 0:
            return 0
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(over - 1, 32))


NAME_AT_ADDRESS = Rule(free=5, first_seconds=2, longest_seconds=180)
ADDRESS = Rule(free=20, first_seconds=1, longest_seconds=60)
NAME = Rule(free=10, first_seconds=1, longest_seconds=60)

FORGET_SECONDS = 3600
"""A counter without a failure for so long starts anew."""


@dataclass
class _Counter:
    failures: int
    last: float


class Throttle:
    """Counts attempts at passwords and one-time codes. For one thread: the hub's event loop.

    An attempt is counted as failed *before* it is checked and taken back when it succeeds, so that a
    hundred parallel attempts do not all pass before the first one has failed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_entries: int = MOST_ENTRIES) -> None:
        self._clock = clock
        self._most_entries = most_entries
        self._counters: OrderedDict[tuple[str, ...], _Counter] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def admit(self, name: str, address: str) -> float:
        """Ask before an attempt is checked.

        :return: 0, and the attempt counts as failed until `succeeded` is called; or the seconds to wait, and
            the attempt must be refused unchecked. A refused attempt does not make the wait longer.
        """
        network = _network(address)
        rules = self._rules(name, network)
        wait = max(self._remaining(key, rule) for key, rule in rules.items())
        if wait > 0:
            return wait
        for key in rules:
            self._count(key)
        return 0

    def succeeded(self, name: str, address: str) -> None:
        """The admitted attempt was right.

        The address keeps its other failures: else an attacker would clear them with an account of his own.
        """
        network = _network(address)
        self._counters.pop(("pair", name, network), None)
        self._counters.pop(("name", name), None)
        at_address = self._counters.get(("address", network))
        if at_address and (name, network) not in self._known:  # a known name was not counted there
            at_address.failures -= 1
        self._known[name, network] = None
        self._known.move_to_end((name, network))
        _drop_oldest(self._known, self._most_entries)

    def forget(self, name: str) -> None:
        """The name has no account any more: no address is known for it."""
        for pair in [pair for pair in self._known if pair[0] == name]:
            del self._known[pair]

    def _rules(self, name: str, network: str) -> dict[tuple[str, ...], Rule]:
        own: dict[tuple[str, ...], Rule] = {("pair", name, network): NAME_AT_ADDRESS}
        if (name, network) in self._known:
            return own
        return own | {("address", network): ADDRESS, ("name", name): NAME}

    def _remaining(self, key: tuple[str, ...], rule: Rule) -> float:
        counter = self._counters.get(key)
        if counter is None:
            return 0
        return max(0, counter.last + rule.wait_seconds(counter.failures) - self._clock())

    def _count(self, key: tuple[str, ...]) -> None:
        now = self._clock()
        counter = self._counters.get(key)
        if counter is None or now - counter.last > FORGET_SECONDS:
            counter = self._counters[key] = _Counter(0, now)
        counter.failures += 1
        counter.last = now
        self._counters.move_to_end(key)
        _drop_oldest(self._counters, self._most_entries)


def wait_message(seconds: float) -> str:
    """What a person reads whose attempt was refused."""
    if seconds < 60:
        whole = max(1, round(seconds + 0.5))
        return f"Too many failed attempts. Wait {whole} second{'s' if whole > 1 else ''}, then try again."
    minutes = int(-(-seconds // 60))
    return f"Too many failed attempts. Wait {minutes} minute{'s' if minutes > 1 else ''}, then try again."


def _network(address: str) -> str:
    """The unit that one person holds: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def _drop_oldest(entries: OrderedDict, most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
