"""`import topo`: dumps of hosts become profiles that run, and say what was assumed."""

from __future__ import annotations

import re
from pathlib import Path

import nccl_topologies as nccl
import pytest
import topo_dumps as dumps
from click.testing import CliRunner, Result

from sim.cli import main
from sim.fluid import rates_together
from sim.hardware import Profile, load_profile, shipped
from sim.hardware.collectives import isolated_time, sent_per_rank
from sim.hardware.profile_check import contradictions
from sim.importers.cards import CARDS, card_of
from sim.importers.host_profile import Wanted, host_profile, profile_of
from sim.importers.host_tree import tree_of
from sim.importers.lspci import read_lspci_records, read_lspci_tree
from sim.importers.nccl_topology import read_nccl_topology
from sim.importers.nvidia_topo import MatrixError, read_matrix
from sim.importers.pci_links import parse_link
from sim.importers.text_lines import lines_of


def profile(text: str, gpu: str | None = None, **wanted: object) -> Profile:
    tree = tree_of(read_matrix(lines_of(text.encode(), "topo")))
    made = host_profile(tree, Wanted(card=card_of(gpu) if gpu else None, **wanted), "host", "topo")  # type: ignore[arg-type]
    return profile_of(made.plain, "topo")


def uplinks(of: Profile) -> list[tuple[int, ...]]:
    """Groups of GPUs whose copies share a link."""
    users: dict[int, list[int]] = {}
    for gpu in range(of.gpus):
        for resource, _ in of.graph.copy(gpu, "h2d"):
            users.setdefault(resource, []).append(gpu)
    return sorted({tuple(gpus) for gpus in users.values() if len(gpus) > 1})


def memories(of: Profile) -> list[tuple[int, ...]]:
    names = dict.fromkeys(of.graph.pinned)
    return [tuple(g for g in range(of.gpus) if of.graph.pinned[g] == name) for name in names]


def fabric(of: Profile) -> str:
    """How NVLinks join GPUs."""
    if any(node.kind == "nvswitch" for node in of.topology.nodes.values()):
        return "switch"
    pairs = [edge for link in of.topology.links if link.kind == "NVLink" for edge in link.edges(of.gpus)]
    return f"{len(pairs)} pairs" if pairs else "none"


FOUR, EIGHT = (0, 1, 2, 3), tuple(range(8))
HOSTS = {
    "PXB pairs": (dumps.PXB_PAIRS, "A100", [(0, 1), (2, 3), (4, 5), (6, 7)], [FOUR, (4, 5, 6, 7)], "none", ((0, 1), (2, 3), (4, 5), (6, 7))),
    "NVSwitch, a NIC each": (dumps.DGX_H100, "H100", [], [(0, 1), (2, 3)], "switch", "direct"),
    "NVSwitch, NICs tell of switches": (dumps.DGX_A100, "A100", [(0, 1), (2, 3)], [(0, 1), (2, 3)], "switch", "direct"),
    "all SYS in a virtual machine": (dumps.ALL_SYS, "A10", [], [FOUR, (4, 5, 6, 7)], "none", "host"),
    "host bridges of one node": (dumps.NODE_4, "RTX A4000", [], [FOUR], "none", "host"),
    "bridged pair": (dumps.BRIDGED_3090, "RTX 3090", [], [(0, 1)], "1 pairs", "direct"),
    "hybrid mesh, old driver": (dumps.DGX_1, "V100", [(0, 1), (2, 3)], [(0,), (1,)], "16 pairs", None),
    "desktop cards, no P2P": (dumps.DESKTOPS_4090, "RTX 4090", [], [(0, 1), (2, 3)], "none", "host"),
    "switches of switches": (dumps.NESTED, "L40S", [(0, 1), (0, 1, 2, 3), (2, 3)], [FOUR], "none", "direct"),
    "one GPU": (dumps.SINGLE, "H200", [], [(0,)], "none", "host"),
    "four NUMA nodes a socket": (dumps.NPS4, "A100 PCIe", [], [(0,), (1,), (2,), (3,)], "none", "host"),
    "NVLink alone": (dumps.GB_4, "B200", [], [(0, 1), (2, 3)], "switch", "direct"),
    "no affinities": (dumps.NO_AFFINITY, "RTX 4090", [], [(0, 1)], "none", "host"),
    "NVLink mesh": (dumps.MESH_A100, "A100", [], [(0,), (1,), (2,), (3,)], "6 pairs", "direct"),
    "wrapped by a terminal": (dumps.WIDE, "H100", [], [(0, 1), (2, 3)], "switch", "direct"),
    "a table of Markdown": (dumps.MARKDOWN, "RTX 4090", [], [(0, 1)], "none", "host"),
    "links of one GPU partly down": (dumps.DEGRADED, "B200", [], [FOUR], "switch", "direct"),
    "a log with times, no nodes": (dumps.TIMED, "A10", [], [(0, 1)], "none", "host"),
    "an indented block": (dumps.INDENTED, "L40S", [(0, 1)], [(0, 1)], "none", "direct"),
    "lists of nodes": (dumps.NODE_LISTS, "GH200", [], [(0,), (1,)], "1 pairs", "direct"),
    "old names of NICs": (dumps.OLD_NICS, "V100", [], [(0,), (1,)], "1 pairs", "direct"),
    "three behind one switch": (dumps.UNEVEN, "L40", [(0, 1, 2)], [(0, 1, 2, 3, 4)], "none", ((0, 1, 2),)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTS)
def test_topologies_seen_in_public_become_profiles(name: str) -> None:
    text, gpu, shared, near, nvlink, peers = HOSTS[name]
    made = profile(text, gpu)
    assert uplinks(made) == shared
    if name != "hybrid mesh, old driver":  # it prints processors and no nodes, and ours differ for each GPU
        assert memories(made) == near
    assert fabric(made) == nvlink
    if peers is not None:
        assert made.topology.peers == peers
    assert not contradictions(made)
    assert made.device.name == card_of(gpu).name  # type: ignore[union-attr]


def test_a_hybrid_mesh_keeps_each_pairs_links_and_sends_the_rest_through_the_host() -> None:
    made = profile(dumps.DGX_1, "V100")
    rates = {link.ends: link.each_way.value for link in made.topology.links if link.kind == "NVLink" and link.each_way}
    assert (rates["gpu0", "gpu1"], rates["gpu0", "gpu3"]) == (25e9, 50e9)
    assert isinstance(made.topology.peers, tuple) and {0, 4} in map(set, made.topology.peers)
    assert not any({0, 5} <= set(group) for group in made.topology.peers)


def test_a_gpu_with_links_down_has_fewer_to_the_switch() -> None:
    made = profile(dumps.DEGRADED, "B200")
    rates = {link.gpus: link.each_way.value for link in made.topology.links if link.kind == "NVLink" and link.each_way}
    assert rates == {(0, 1, 3): 18 * 50e9, (2,): 16 * 50e9}


def test_rates_follow_from_generation_and_width_and_say_so() -> None:
    wide, narrow = (profile(dumps.NODE_4, link=parse_link(text, "--link")) for text in ("gen4x16", "gen4x8"))
    assert (wide.h2d.cap.value, narrow.h2d.cap.value) == (25e9, 12.5e9)
    assert re.match(r"assumed: PCIe 4.0 x8, 15.75 GB/s \(--link\), at the 79 %", narrow.h2d.cap.source)
    assert profile(dumps.NODE_4, link=parse_link("Gen5 x16", "")).h2d.cap.value == pytest.approx(55.35e9, rel=1e-3)
    for path, source in (
        (link.ends, c.source) for link in wide.topology.links for c in (link.each_way, link.both_ways) if c
    ):
        assert source.startswith("assumed"), path


def together(of: Profile, *copies: tuple[str, int]) -> list[float]:
    """GB/s of copies (direction, GPU) that are in flight at once."""
    specs = [of.copy_flow(kind, gpu) for kind, gpu in copies]  # type: ignore[arg-type]
    return [rate / 1e9 for rate in rates_together(specs, of.capacities)]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_both_rates_of_the_a100s_behind_pxb_come_from_the_dump(tmp_path: Path) -> None:
    dump, out = tmp_path / "topo.txt", tmp_path / "a100.yaml"
    dump.write_text(dumps.PXB_PAIRS)
    done = invoke("import", "topo", str(dump), "-o", str(out), "--gpu", "A100")
    assert done.exit_code == 0, done.output
    made = load_profile(str(out))
    for peer in (0, 1):  # on one GPU, and on the two of a pair
        down, up = together(made, ("h2d", 0), ("d2h", peer))
        assert (down, up) == (pytest.approx(11, rel=0.02), pytest.approx(25, rel=0.02))
    assert together(made, ("h2d", 0)) == [pytest.approx(25)]
    assert together(made, ("h2d", 0), ("h2d", 1)) == [pytest.approx(12.5), pytest.approx(12.5)]
    assert together(made, ("h2d", 0), ("h2d", 2)) == [pytest.approx(25), pytest.approx(25)]
    assert invoke("hardware", str(out), "--check").exit_code == 0
    again = invoke("import", "topo", str(dump), "-o", str(out), "--gpu", "A100")
    assert again.exit_code == 0  # its own earlier result


TREE = """\
-+-[0000:00]-+-00.0  Intel Corporation Device 09a2
 |           \\-1f.0  Intel Corporation Device 1b81
 +-[0000:16]---01.0-[17-1e]----00.0-[18-1e]--+-00.0-[19]----00.0  NVIDIA Corporation GA100 [A100 PCIe 80GB]
 |                                           +-01.0-[1a]----00.0  NVIDIA Corporation GA100 [A100 PCIe 80GB]
 |                                           \\-02.0-[1b]--+-00.0  Mellanox Technologies MT2892 Family [ConnectX-6 Dx]
 |                                                        \\-00.1  Mellanox Technologies MT2892 Family [ConnectX-6 Dx]
 \\-[0000:64]-+-01.0-[65]--+-00.0  NVIDIA Corporation GA100 [A100 PCIe 80GB]
             |            \\-00.1  NVIDIA Corporation High Definition Audio Controller
             \\-02.0-[66]----00.0  NVIDIA Corporation GA100 [A100 PCIe 80GB]
""".replace("\\\\", "\\")


def test_lspci_draws_which_gpus_share_a_switch() -> None:
    tree = read_lspci_tree(lines_of(TREE.encode(), "lspci"))
    made = profile_of(host_profile(tree, Wanted(), "host", "lspci").plain, "lspci")
    assert (made.gpus, made.device.name, uplinks(made)) == (4, "NVIDIA A100 80GB PCIe", [(0, 1)])
    assert made.topology.peers == ((0, 1),)


def test_rocm_smi_tells_xgmi_and_nodes(tmp_path: Path) -> None:
    dump, out = tmp_path / "rocm.txt", tmp_path / "p.yaml"
    dump.write_text(dumps.rocm(8, "00001111"))
    done = invoke("import", "topo", str(dump), "-o", str(out), "--gpu", "MI300X")
    assert done.exit_code == 0, done.output
    made = load_profile(str(out))
    assert (memories(made), fabric(made), made.topology.peers) == ([FOUR, (4, 5, 6, 7)], "28 pairs", "direct")
    (link, *_) = [link for link in made.topology.links if link.kind == "NVLink"]
    assert link.each_way is not None and link.each_way.value == 64e9 and "xGMI" in link.each_way.source
    dump.write_text(dumps.rocm(2, "01", "PCIE"))
    assert invoke("import", "topo", str(dump), "-o", str(out), "--gpu", "MI300X").exit_code == 0
    assert load_profile(str(out)).topology.peers == "host"
    for text, told in (
        (dumps.rocm(4, "0011").replace("XGMI", "WIRE", 1), "has 'WIRE', which is no link"),
        (dumps.rocm(4, "0011").partition("GPU3   XGMI")[0], "has 3 of 4 rows"),
    ):
        dump.write_text(text)
        refused = invoke("import", "topo", str(dump), "-o", str(out))
        assert refused.exit_code == 2 and told in refused.stderr


def test_lspci_in_a_quoted_report_with_numbers_for_names(tmp_path: Path) -> None:
    dump, out = tmp_path / "report.md", tmp_path / "p.yaml"
    tree = TREE.replace("GA100 [A100 PCIe 80GB]", "Device 2330")
    dump.write_text("It shows:\n\n" + "".join(f"> {line}\n" for line in ("$ lspci -tv", *tree.splitlines())))
    done = invoke("import", "topo", str(dump), "-o", str(out))
    assert done.exit_code == 0, done.output
    made = load_profile(str(out))
    assert (made.gpus, made.device.name, uplinks(made)) == (4, "NVIDIA H100 SXM", [(0, 1)])


RECORDS = """\
16:01.0 PCI bridge: Intel Corporation Device 347a (rev 04) (prog-if 00 [Normal decode])
\tNUMA node: 0
\tBus: primary=16, secondary=17, subordinate=19, sec-latency=0
\t\tLnkCap:\tPort #5, Speed 16GT/s, Width x16, ASPM not supported
\t\tLnkSta:\tSpeed 16GT/s, Width x8 (downgraded)
17:00.0 PCI bridge: Broadcom / LSI PEX880xx PCIe Gen 4 Switch (rev b0)
\tBus: primary=17, secondary=18, subordinate=19, sec-latency=0
18:00.0 3D controller: NVIDIA Corporation GA102GL [RTX A5000] (rev a1)
\tNUMA node: 0
\t\tLnkCap:\tPort #0, Speed 16GT/s, Width x16, ASPM L0s L1
\t\tLnkSta:\tSpeed 2.5GT/s (downgraded), Width x16
18:01.0 3D controller: NVIDIA Corporation GA102GL [RTX A5000] (rev a1)
\tNUMA node: 0
\t\tLnkCap:\tPort #0, Speed 16GT/s, Width x16, ASPM L0s L1
\t\tLnkSta:\tSpeed 2.5GT/s (downgraded), Width x16
18:01.1 Audio device: NVIDIA Corporation GA102 High Definition Audio Controller (rev a1)
64:00.0 VGA compatible controller: NVIDIA Corporation GA102GL [RTX A5000] (rev a1)
\tNUMA node: 1
\t\tLnkCap:\tPort #0, Speed 16GT/s, Width x16, ASPM L0s L1
\t\tLnkSta:\tSpeed 2.5GT/s (downgraded), Width x4 (downgraded)
65:00.0 VGA compatible controller: ASPEED Technology, Inc. ASPEED Graphics Family (rev 52)
"""


def test_lspci_records_tell_links_and_nodes_an_idle_gpu_has_its_width() -> None:
    tree = read_lspci_records(lines_of(RECORDS.encode(), "lspci"))
    made = profile_of(host_profile(tree, Wanted(), "host", "lspci").plain, "lspci")
    assert (made.gpus, made.device.name) == (3, "NVIDIA RTX A5000")
    assert together(made, ("h2d", 2)) == [pytest.approx(25 / 4, rel=1e-3)]  # x4
    assert together(made, ("h2d", 0)) == [pytest.approx(25 / 2, rel=1e-3)]  # the switch's uplink has x8 of x16
    assert memories(made) == [(0, 1), (2,)]


def test_a_plain_list_of_devices_tells_how_many_gpus_there_are(tmp_path: Path) -> None:
    listed, out = tmp_path / "lspci.txt", tmp_path / "p.yaml"
    listed.write_text("\n".join(line for line in RECORDS.splitlines() if not line.startswith("\t")))
    done = invoke("import", "topo", str(listed), "-o", str(out), "--link", "gen3x8")
    assert done.exit_code == 0 and "lspci shows no bridges" in done.stderr
    made = load_profile(str(out))
    assert (made.gpus, made.device.name, uplinks(made)) == (3, "NVIDIA RTX A5000", [])
    assert together(made, ("h2d", 0)) == [pytest.approx(6.25, rel=1e-3)]


LSTOPO = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
 <object type="Machine" os_index="0">
  <object type="Package" os_index="0"><object type="NUMANode" os_index="0"/>
   <object type="Bridge" gp_index="9" bridge_type="0-1" depth="0" bridge_pci="0000:[00-05]">
    <object type="Bridge" bridge_type="1-1" bridge_pci="0000:[01-05]" pci_busid="0000:00:01.0" pci_type="0604 [8086:2030]" pci_link_speed="31.507692">
     <object type="PCIDev" pci_busid="0000:03:00.0" pci_type="0302 [10de:20b5] [10de:1533] a1" pci_link_speed="31.507692"><info name="PCIDevice" value="GA100 [A100 PCIe 80GB]"/></object>
     <object type="PCIDev" pci_busid="0000:04:00.0" pci_type="0302 [10de:20b5] [10de:1533] a1" pci_link_speed="4.000000"/>
     <object type="PCIDev" pci_busid="0000:05:00.0" pci_type="0207 [15b3:101d] [15b3:0016] 00" pci_link_speed="31.507692"/>
    </object>
   </object>
  </object>
  <object type="Package" os_index="1">
   <object type="Bridge" gp_index="10" bridge_type="0-1" bridge_pci="0000:[80-85]">
    <object type="PCIDev" pci_busid="0000:81:00.0" pci_type="0302 [10de:20b5] [10de:1533] a1" pci_link_speed="15.753846"/>
    <object type="PCIDev" pci_busid="0000:82:00.0" pci_type="0300 [1a03:2000] [1a03:2000] 41" pci_link_speed="0.000000"/>
   </object>
  </object>
 </object>
</topology>
"""


def test_lstopo_tells_packages_bridges_and_links(tmp_path: Path) -> None:
    dump, out = tmp_path / "host.xml", tmp_path / "p.yaml"
    dump.write_text(LSTOPO)
    done = invoke("import", "topo", str(dump), "-o", str(out))
    assert done.exit_code == 0, done.output
    made = load_profile(str(out))
    assert (made.gpus, uplinks(made), memories(made)) == (3, [(0, 1)], [(0, 1), (2,)])
    assert together(made, ("h2d", 2)) == [pytest.approx(12.5, rel=1e-3)]  # Gen3 x16, or Gen4 x8
    dump.write_text(LSTOPO.replace("<topology version", '<!DOCTYPE x [<!ENTITY a "b">]><topology version'))
    refused = invoke("import", "topo", str(dump), "-o", str(out))
    assert (refused.exit_code, "entities" in refused.stderr) == (2, True)


NCCL_DUMPS = {
    "switches": (nccl.SWITCHES, "A100 80GB PCIe", [(0, 1), (2, 3)], [(0, 1), (2, 3)], "none", ((0, 1), (2, 3))),
    "NVSwitches": (nccl.DGX_H200, "H200", [], [FOUR, (4, 5, 6, 7)], "switch", "direct"),
    "no links of a virtual machine": (nccl.NO_LINKS, "A100 80GB PCIe", [], [(0,), (1,)], "1 pairs", "direct"),
    "a cloud's file": (nccl.CLOUD_FILE, None, [(0, 1)], [(0, 1), (2,)], "none", "host"),
    "virtual bridges": (nccl.VIRTUAL_BRIDGE, "H100 SXM", [], [(0, 1)], "none", "host"),
    "RCCL": (nccl.RCCL, "MI250X", [], [(0,), (1,)], "1 pairs", "direct"),
    "Grace": (nccl.GRACE, "GH200", [], [(0,), (1,)], "1 pairs", "direct"),
}


@pytest.mark.parametrize("name", NCCL_DUMPS)
def test_topologies_of_nccl_become_profiles(name: str) -> None:
    text, gpu, shared, near, nvlink, peers = NCCL_DUMPS[name]
    made = profile_of(host_profile(read_nccl_topology(text.encode(), "t"), Wanted(), "host", "t").plain, "t")
    assert (uplinks(made), memories(made), fabric(made)) == (shared, near, nvlink)
    assert made.topology.peers == peers and not contradictions(made)
    if gpu is not None:
        assert made.device.name == card_of(gpu).name  # type: ignore[union-attr]


def test_links_and_uplinks_of_nccl_are_those_of_the_file(tmp_path: Path) -> None:
    dump, out = tmp_path / "nccl.xml", tmp_path / "p.yaml"
    dump.write_text(nccl.SWITCHES)
    done = invoke("import", "topo", str(dump), "-o", str(out))
    assert done.exit_code == 0, done.output
    made = load_profile(str(out))
    assert together(made, ("h2d", 0), ("h2d", 1)) == [pytest.approx(12.5)] * 2
    assert together(made, ("h2d", 2), ("h2d", 3)) == [pytest.approx(6.25, rel=1e-3)] * 2  # an uplink of x8
    assert "NCCL, 0000:96:00.0" in out.read_text()
    virtual = read_nccl_topology(nccl.VIRTUAL_BRIDGE.encode(), "t")
    assert not virtual.uplinks and "virtual" in virtual.remarks[0]
    links = read_nccl_topology(nccl.DGX_H200.encode(), "t").nvlinks
    assert len(links) == 28 and set(links.values()) == {18}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (nccl.TWO_HOSTS, "tells of 2 hosts"),
        (nccl.TWO_HOSTS.replace("0x2", "0x1"), "has several GPUs of dev 0"),
        (nccl.SWITCHES[:900], "is not XML"),
        (nccl.system(nccl.cpu("0", nccl.nic("0000:29:00.0"))), "has no GPU"),
        ('<system version="1">' + "<pci>" * 200, "is nested too deeply"),
        ('<system version="1">' + "<pci/>" * 310_000, "has more than 300000 elements"),
    ],
)
def test_topologies_of_nccl_that_are_no_host_are_refused(tmp_path: Path, text: str, told: str) -> None:
    dump = tmp_path / "nccl.xml"
    dump.write_text(text)
    refused = invoke("import", "topo", str(dump), "-o", str(tmp_path / "p.yaml"))
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert told in refused.stderr and str(dump) in refused.stderr


def test_a_whole_report_names_its_gpus(tmp_path: Path) -> None:
    row = "|   {}  NVIDIA RTX A4000               On  |   00000000:0{}:00.0 Off |                    0 |"
    table = [
        "| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0 |",
        *(row.format(g, g + 1) for g in range(4)),
    ]
    report, out = tmp_path / "report.md", tmp_path / "p.yaml"
    report.write_text("## GPUs\n\n" + "\n".join(table) + "\n\n```\n" + dumps.NODE_4 + "```\n")
    done = invoke("import", "topo", str(report), "-o", str(out))
    assert done.exit_code == 0, done.output
    assert load_profile(str(out)).device.name == "NVIDIA RTX A4000"


def test_several_dumps_of_one_host_are_put_together(tmp_path: Path) -> None:
    matrix, tree, out = tmp_path / "topo.txt", tmp_path / "lspci.txt", tmp_path / "p.yaml"
    matrix.write_text(dumps.dump("X 12 S S/12 X S S/S S X 12/S S 12 X", "0011"))
    tree.write_text(TREE)
    assert invoke("import", "topo", str(matrix), str(tree), "-o", str(out)).exit_code == 0
    made = load_profile(str(out))
    assert (uplinks(made), fabric(made), memories(made)) == ([(0, 1)], "2 pairs", [(0, 1), (2, 3)])
    matrix.write_text(dumps.BRIDGED_3090)
    refused = invoke("import", "topo", str(matrix), str(tree), "-o", str(out))
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "has 4 GPUs, but" in refused.stderr and "has 2" in refused.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\n".join(dumps.PXB_PAIRS.splitlines()[:7]), "says nothing of GPU6 and GPU7: is it cut off?"),
        ("\n".join(dumps.PXB_PAIRS.splitlines()[:5])[:-60], "line 5: the row of GPU3 has"),
        (dumps.NODE_4.replace("NODE", "SYS", 1), "contradicts itself: GPU0 to GPU1 is SYS, GPU1 to GPU0 is NODE"),
        (dumps.NODE_4.replace("NODE", "BUS", 1), "has 'BUS', which is no connection"),
        ("GPU0 GPU1\n", "says nothing of GPU0 and GPU1"),
        ("nothing of the kind\n", "has no header of `nvidia-smi topo -m`"),
    ],
)
def test_dumps_that_are_cut_off_or_contradict_are_refused(text: str, told: str) -> None:
    with pytest.raises(MatrixError, match=re.escape(told)):
        read_matrix(lines_of(text.encode(), "topo"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu", "B9999"], "--gpu: is 'B9999', expected one of"),
        (["--link", "gen9x16"], "--link: 'gen9x16' is no PCIe link"),
        (["--hardware", "nowhere"], "nowhere"),
    ],
)
def test_options_that_say_nothing_are_refused(tmp_path: Path, options: list[str], told: str) -> None:
    dump = tmp_path / "topo.txt"
    dump.write_text(dumps.NODE_4)
    done = invoke("import", "topo", str(dump), "-o", str(tmp_path / "p.yaml"), *options)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert told in done.stderr and not (tmp_path / "p.yaml").exists()


def test_two_cards_behind_one_switch_are_slower_together_than_two_on_different_sockets() -> None:
    # NCCL issue 1309: RTX 4090s without P2P, where a pair behind one switch shares its uplink in both directions
    made = profile(dumps.dump("X P S S/P X S S/S S X P/S S P X", "0011"), "RTX 4090")
    assert uplinks(made)[0] == (0, 1) and not contradictions(made)
    for kind in ("all_reduce", "all_to_all"):
        same, other = (isolated_time(made, kind, 100_000_000, gpus) for gpus in ((0, 1), (0, 2)))
        table = made.collective_class(kind).alone
        assert same > 1.1 * other, kind
        assert other == pytest.approx(table.at(sent_per_rank(kind, 100_000_000, 2)), rel=0.02)


def test_every_card_is_found_by_its_own_name_and_has_a_link() -> None:
    for card in CARDS:
        assert card_of(card.name) is card
        assert card.link.rate > 5e9
        device = card.device()
        assert device["name"] and all("source" in value for value in device.values() if isinstance(value, dict))


def test_a_card_that_a_shipped_profile_has_takes_its_efficiencies() -> None:
    devices = [load_profile(name).device for name in shipped()]
    cards = [(card, device) for device in devices if (card := card_of(device.name)) is not None]
    assert len(cards) > 20
    for card in {card for card, _ in cards}:
        efficiencies = {device.compute_efficiency.value for other, device in cards if other is card}
        assert card.device()["compute_efficiency"]["value"] in efficiencies, card.name
    small = card_of("A100-PCIE-40GB")
    assert small is not None
    assert (small.device()["memory"]["value"], small.device()["compute_efficiency"]["value"]) == ("40 GB", 0.55)


def test_gpus_of_several_kinds_are_told_apart() -> None:
    mixed = TREE.replace("GA100 [A100 PCIe 80GB]", "AD102 [GeForce RTX 4090]", 2)
    tree = read_lspci_tree(lines_of(mixed.encode(), "lspci"))
    made = profile_of(host_profile(tree, Wanted(), "host", "lspci").plain, "lspci")
    assert [made.device_of(g).name for g in (0, 3)] == ["NVIDIA GeForce RTX 4090", "NVIDIA A100 80GB PCIe"]
    assert made.cards == made.fingerprint["gpu"] == "2 x NVIDIA GeForce RTX 4090 + 2 x NVIDIA A100 80GB PCIe"
