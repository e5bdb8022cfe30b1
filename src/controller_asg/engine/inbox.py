"""What waits for a group's next pass: facts that calls brought, orders of operators, and a reason to wake."""

import asyncio
from dataclasses import dataclass, field

from controller_asg.model.errors import AsgError
from controller_asg.planner.snapshot import Fact, Order


@dataclass(slots=True)
class Inbox:
    """Filled by anyone in the loop, emptied by the group's reconciler alone."""

    facts: list[Fact] = field(default_factory=list)
    orders: list[tuple[Order, asyncio.Future[None]]] = field(default_factory=list)
    awake: asyncio.Event = field(default_factory=asyncio.Event)

    def put_fact(self, fact: Fact) -> None:
        self.facts.append(fact)
        self.awake.set()

    def put_order(self, order: Order) -> asyncio.Future[None]:
        """Done when the pass that took it is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.orders.append((order, done))
        self.awake.set()
        return done

    def take(self) -> tuple[tuple[Fact, ...], list[tuple[Order, asyncio.Future[None]]]]:
        facts, orders = tuple(self.facts), self.orders
        self.facts, self.orders = [], []
        return facts, orders

    def give_back(self, facts: tuple[Fact, ...]) -> None:
        """A pass that could not be committed forgets nothing."""
        self.facts[:0] = facts

    def refuse(self, orders: list[tuple[Order, asyncio.Future[None]]], error: AsgError) -> None:
        for _, done in orders:
            if not done.done():
                done.set_exception(error)
