"""Runs flows on SimGrid, with the system's python3: problems as JSON on standard input, ends of flows on output.

Each problem is {"capacities": [...], "flows": [{"route": [...], "cap", "weight", "size", "start"}, ...]}. SimGrid's
CM02 shares links in inverse proportion to latency, so a flow of weight w has a private link of latency 1 / w, over
which it sets off that much earlier, and whose bandwidth is the flow's cap.
"""

import json
import sys

from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone, this_actor


def build(zone, number, problem):
    """The links and hosts of a problem; (earliest start, comm maker) of each flow."""
    links = [zone.create_link(f"p{number}.l{i}", capacity).seal() for i, capacity in enumerate(problem["capacities"])]
    flows = []
    for i, flow in enumerate(problem["flows"]):
        a, b = (zone.create_host(f"p{number}.f{i}.{end}", 1e9).seal() for end in "ab")
        own = zone.create_link(f"p{number}.w{i}", flow["cap"])
        own.set_latency(1.0 / flow["weight"]).seal()
        route = [LinkInRoute(link) for link in [own, *(links[r] for r in flow["route"])]]
        zone.add_route(a.netpoint, b.netpoint, None, None, route, False)
        flows.append((flow["start"] - 1.0 / flow["weight"], flow, a, b))
    return sorted(flows, key=lambda f: f[0])


def main():
    """Run all problems one after the other in one simulation."""
    problems = json.load(sys.stdin)
    options = ["network/model:CM02", "network/TCP-gamma:0", "network/bandwidth-factor:1", "network/latency-factor:1",
               "network/weight-S:0", "network/crosstraffic:0", "maxmin/precision:1e-12", "surf/precision:1e-12"]  # fmt: skip
    engine = Engine(["peer", "--log=root.thres:error", *(f"--cfg={o}" for o in options)])
    zone = NetZone.create_full_zone("zone")
    built = [build(zone, i, p) for i, p in enumerate(problems)]
    driver = zone.create_host("driver", 1e9).seal()
    zone.seal()
    ends = []

    def drive():
        for flows in built:
            origin = Engine.clock + 100.0  # later than any latency
            comms = []
            for start, flow, a, b in flows:
                this_actor.sleep_until(origin + start)
                comm = Comm.sendto_init(a, b)
                comms.append((flow, comm.set_payload_size(flow["size"]).start()))
            Comm.wait_all([comm for _, comm in comms])
            found = {id(flow): comm.finish_time - origin for flow, comm in comms}
            ends.append(found)

    Actor.create("driver", driver, drive)
    engine.run()
    print(json.dumps([[found[id(f)] for f in p["flows"]] for found, p in zip(ends, problems, strict=True)]))


main()
