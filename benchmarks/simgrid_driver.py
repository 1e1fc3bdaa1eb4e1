"""The benchmark's problem on SimGrid's Python binding, with the system's python3: as simgrid_driver.cpp, which see."""

import sys
import time

from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone, this_actor


class Condition:
    """What one actor waits for."""

    def __init__(self):
        self.waiter = None

    def wait(self, holds):
        """Suspend the actor until `holds()`."""
        while not holds():
            self.waiter = Actor.self()
            this_actor.suspend()

    def notify(self):
        """Let the actor look again."""
        if self.waiter is not None:
            woken, self.waiter = self.waiter, None
            woken.resume()


class Rank:
    """What the two actors of a rank share."""

    def __init__(self):
        self.landed = self.done = self.incoming = self.meetings = 0
        self.in_collective = False
        self.compute, self.copy = Condition(), Condition()


class Problem:
    """The problem of a command line."""

    def __init__(self, given):
        self.count, self.layers, self.gated, self.chunks = (int(text) for text in given[:4])
        self.chunk_bytes, self.last_bytes, self.pair_bytes = (int(text) for text in given[4:7])
        self.link, self.copy_cap, self.pair_cap, self.slow = (float(text) for text in given[7:11])
        self.block = [None if text == "x" else float(text) for text in given[11:]]
        self.ranks = [Rank() for _ in range(self.count)]
        self.arrived = self.met = 0

    def build(self):
        """Hosts, links and actors."""
        zone = NetZone.create_full_zone("host")
        self.memory = zone.create_host("memory", 1e9).seal()
        self.gpus, down, up = [], [], []
        for r in range(self.count):
            link = self.link * (1.0 if r else self.slow)
            self.gpus.append(zone.create_host(f"gpu{r}", 1e9).seal())
            down.append(LinkInRoute(zone.create_link(f"down{r}", link).seal()))
            up.append(LinkInRoute(zone.create_link(f"up{r}", link).seal()))
            own = LinkInRoute(zone.create_link(f"copy{r}", self.copy_cap).seal())
            zone.add_route(self.memory.netpoint, self.gpus[r].netpoint, None, None, [own, down[r]], False)
        for a in range(self.count):
            for b in range(self.count):
                if a != b:
                    own = LinkInRoute(zone.create_link(f"pair{a}-{b}", self.pair_cap).seal())
                    ends = self.gpus[a].netpoint, self.gpus[b].netpoint
                    zone.add_route(*ends, None, None, [own, up[a], down[b]], False)
        zone.seal()
        for r in range(self.count):
            Actor.create("copies", self.gpus[r], self.copies, r)
            Actor.create("computes", self.gpus[r], self.computes, r)

    def copies(self, r):
        """The copy stream of rank `r`."""
        rank = self.ranks[r]
        for layer in range(self.layers + 1):
            rank.copy.wait(lambda layer=layer: rank.done >= layer - 1)
            for chunk in range(self.chunks):
                if self.gated:
                    rank.copy.wait(lambda: not rank.in_collective)
                size = self.chunk_bytes if chunk + 1 < self.chunks else self.last_bytes
                Comm.sendto(self.memory, self.gpus[r], size)
            rank.landed += 1
            rank.compute.notify()

    def computes(self, r):
        """The compute stream of rank `r`."""
        rank = self.ranks[r]
        for layer in range(self.layers):
            rank.compute.wait(lambda layer=layer: rank.landed > layer)
            for seconds in self.block:
                if seconds is not None:
                    this_actor.sleep_for(seconds)
                    continue
                rank.in_collective = True
                self.exchange(r)
                rank.in_collective = False
                rank.copy.notify()
            rank.done += 1
            rank.copy.notify()

    def exchange(self, r):
        """An all-to-all, once all ranks have arrived."""
        rank = self.ranks[r]
        rank.incoming += self.count - 1
        rank.meetings += 1
        self.arrived += 1
        if self.arrived == self.count:
            self.arrived, self.met = 0, self.met + 1
            for other in self.ranks:
                if other is not rank:
                    other.compute.notify()
        else:
            rank.compute.wait(lambda: self.met >= rank.meetings)
        others = [b for b in range(self.count) if b != r]
        sends = [Comm.sendto_async(self.gpus[r], self.gpus[b], self.pair_bytes) for b in others]
        for send, b in zip(sends, others, strict=True):
            send.wait()
            self.ranks[b].incoming -= 1
            if self.ranks[b].incoming == 0:
                self.ranks[b].compute.notify()
        rank.compute.wait(lambda: rank.incoming <= 0)


def main():
    """Print the makespan, and CPU seconds of making and of running the problem."""
    engine = Engine([text for text in sys.argv if text.startswith("--") or text == sys.argv[0]])
    start = time.process_time()
    problem = Problem([text for text in sys.argv[1:] if not text.startswith("--")])
    problem.build()
    made = time.process_time()
    engine.run()
    print(Engine.clock, made - start, time.process_time() - made)


main()
