// The benchmark's problem on SimGrid: layers whose chunks are copied while they compute and exchange.
//
//     simgrid_driver RANKS LAYERS GATED CHUNKS CHUNK_BYTES LAST_BYTES PAIR_BYTES LINK COPY_CAP PAIR_CAP SLOW BLOCK...
//
// BLOCK is one layer in order: seconds of a kernel, or "x" for an all-to-all of PAIR_BYTES from each rank to each other
// one. LINK is each GPU's link, B/s each way, that of GPU 0 times SLOW; COPY_CAP and PAIR_CAP are demand caps, B/s. With
// GATED a chunk does not start while its rank is in an all-to-all. There are two slots: the copies of a layer wait
// until the layer two before it has ended. Prints the makespan, and CPU seconds of making and of running the problem.

#include <simgrid/s4u.hpp>

#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

namespace sg = simgrid::s4u;

struct Problem {
  int ranks, layers, gated, chunks;
  double chunk_bytes, last_bytes, pair_bytes, link, copy_cap, pair_cap, slow;
  std::vector<double> block; // seconds of a kernel; less than 0: an all-to-all
};

// What one actor waits for: one at a time waits here.
struct Condition {
  sg::ActorPtr waiter = nullptr;
  template <class Holds> void wait(Holds holds) {
    while (not holds()) {
      waiter = sg::Actor::self();
      sg::this_actor::suspend();
    }
  }
  void notify() {
    if (waiter) {
      sg::ActorPtr woken = waiter;
      waiter = nullptr;
      woken->resume();
    }
  }
};

struct Rank {
  int landed = 0, done = 0, in_collective = 0, incoming = 0;
  long meetings = 0;
  Condition compute, copy;
};

static Problem problem;
static sg::Host* memory;
static std::vector<sg::Host*> gpus;
static std::vector<Rank> ranks;
static int arrived = 0;
static long met = 0;

static void copies(int r) {
  Rank& rank = ranks[r];
  for (int layer = 0; layer <= problem.layers; layer++) { // the last ones are for the step that would follow
    rank.copy.wait([&] { return rank.done >= layer - 1; });
    for (int chunk = 0; chunk < problem.chunks; chunk++) {
      if (problem.gated)
        rank.copy.wait([&] { return not rank.in_collective; });
      sg::Comm::sendto(memory, gpus[r], chunk + 1 < problem.chunks ? problem.chunk_bytes : problem.last_bytes);
    }
    rank.landed++;
    rank.compute.notify();
  }
}

static void exchange(int r) {
  Rank& rank = ranks[r];
  rank.incoming += problem.ranks - 1;
  rank.meetings++;
  if (++arrived == problem.ranks) {
    arrived = 0;
    met++;
    for (int other = 0; other < problem.ranks; other++)
      if (other != r)
        ranks[other].compute.notify();
  } else
    rank.compute.wait([&] { return met >= rank.meetings; });
  std::vector<sg::CommPtr> sends;
  for (int other = 0; other < problem.ranks; other++)
    if (other != r)
      sends.push_back(sg::Comm::sendto_async(gpus[r], gpus[other], problem.pair_bytes));
  for (int other = 0, i = 0; other < problem.ranks; other++)
    if (other != r) {
      sends[i++]->wait();
      if (--ranks[other].incoming == 0)
        ranks[other].compute.notify();
    }
  rank.compute.wait([&] { return rank.incoming <= 0; });
}

static void computes(int r) {
  Rank& rank = ranks[r];
  for (int layer = 0; layer < problem.layers; layer++) {
    rank.compute.wait([&] { return rank.landed > layer; });
    for (double seconds : problem.block) {
      if (seconds >= 0) {
        sg::this_actor::sleep_for(seconds);
        continue;
      }
      rank.in_collective = 1;
      exchange(r);
      rank.in_collective = 0;
      rank.copy.notify();
    }
    rank.done++;
    rank.copy.notify();
  }
}

static double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

int main(int argc, char* argv[]) {
  sg::Engine engine(&argc, argv);
  if (argc < 13)
    return 2;
  const double start = cpu_seconds();
  auto number = [&](int i) { return std::stod(argv[i]); };
  problem = {int(number(1)), int(number(2)), int(number(3)), int(number(4)), number(5), number(6),
             number(7),      number(8),      number(9),      number(10),     number(11), {}};
  for (int i = 12; i < argc; i++)
    problem.block.push_back(std::string(argv[i]) == "x" ? -1.0 : number(i));

  sg::NetZone* zone = sg::create_full_zone("host");
  ranks.resize(problem.ranks);
  memory = zone->create_host("memory", 1e9)->seal();
  std::vector<sg::LinkInRoute> down, up;
  for (int r = 0; r < problem.ranks; r++) {
    const std::string name = std::to_string(r);
    const double link = problem.link * (r ? 1.0 : problem.slow);
    gpus.push_back(zone->create_host("gpu" + name, 1e9)->seal());
    down.emplace_back(zone->create_link("down" + name, link)->seal());
    up.emplace_back(zone->create_link("up" + name, link)->seal());
    const sg::LinkInRoute own(zone->create_link("copy" + name, problem.copy_cap)->seal());
    zone->add_route(memory->get_netpoint(), gpus[r]->get_netpoint(), nullptr, nullptr, {own, down[r]}, false);
  }
  for (int a = 0; a < problem.ranks; a++)
    for (int b = 0; b < problem.ranks; b++)
      if (a != b) {
        const std::string name = "pair" + std::to_string(a) + "-" + std::to_string(b);
        const sg::LinkInRoute own(zone->create_link(name, problem.pair_cap)->seal());
        zone->add_route(gpus[a]->get_netpoint(), gpus[b]->get_netpoint(), nullptr, nullptr, {own, up[a], down[b]},
                        false);
      }
  zone->seal();
  for (int r = 0; r < problem.ranks; r++) {
    sg::Actor::create("copies", gpus[r], copies, r);
    sg::Actor::create("computes", gpus[r], computes, r);
  }
  const double made = cpu_seconds();
  engine.run();
  std::printf("%.17g %.9g %.9g\n", sg::Engine::get_clock(), made - start, cpu_seconds() - made);
}
