"""Topologies as NCCL and RCCL write them (NCCL_TOPO_DUMP_FILE), in the shapes that public reports show; values are our own."""

from __future__ import annotations

from collections.abc import Sequence

GEN4, GEN5 = "16.0 GT/s PCIe", "32.0 GT/s PCIe"


def gpu(dev: int, bus: str, inner: str = "", device: str = "0x20b5", speed: str = GEN4, width: str = "16") -> str:
    """A GPU's PCI device; `inner` are its links."""
    return (
        f'<pci busid="{bus}" class="0x030200" vendor="0x10de" device="{device}" subsystem_vendor="0x10de" '
        f'subsystem_device="0x1533" link_speed="{speed}" link_width="{width}">\n'
        f'<gpu dev="{dev}" sm="80" rank="{dev}" gdr="1">{inner}</gpu>\n</pci>\n'
    )


def nic(bus: str) -> str:
    return (
        f'<pci busid="{bus}" class="0x020700" vendor="0x15b3" device="0x1021" link_speed="{GEN5}" link_width="16">'
        '<nic><net name="mlx5_0" dev="0" speed="400000" port="1" latency="0.000000" guid="0x1" maxconn="131072" gdr="1"/>'
        "</nic></pci>\n"
    )


def switch(bus: str, *inner: str, speed: str = GEN4, width: str = "16") -> str:
    head = f'<pci busid="{bus}" class="0x060400" vendor="0x1000" device="0xc030" link_speed="{speed}" link_width="{width}">'
    return f"{head}\n{''.join(inner)}</pci>\n"


def cpu(numa: str, *inner: str, host: str = "0x16fe256e956b115c") -> str:
    hash_ = f'host_hash="{host}" ' if host else ""
    head = f'<cpu {hash_}numaid="{numa}" affinity="00ffffff" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="207">'
    return f"{head}\n{''.join(inner)}</cpu>\n"


def system(*cpus: str, version: str = "1") -> str:
    return f'<system version="{version}">\n{"".join(cpus)}</system>\n'


def nvlink(target: str, count: int, tclass: str = "0x068000", tag: str = "nvlink") -> str:
    return f'<{tag} target="{target}" count="{count}" tclass="{tclass}"/>'


def nvswitches(counts: Sequence[int] = (5, 5, 4, 4)) -> str:
    return "".join(nvlink(f"0000:0{5 + i}:00.0", count) for i, count in enumerate(counts))


SWITCHES = system(
    cpu("0", switch("0000:16:00.0", gpu(0, "0000:18:00.0"), gpu(1, "0000:19:00.0"), nic("0000:1a:00.0")), nic("0000:29:00.0")),
    cpu("1", switch("0000:96:00.0", switch("0000:98:00.0", gpu(2, "0000:9a:00.0")), gpu(3, "0000:9b:00.0"), width="8")),
)  # fmt: skip
"""Two sockets, two GPUs behind a switch each; the second switch has x8, and another one below it."""

DGX_H200 = system(
    *(
        cpu(
            str(node),
            *(
                switch(
                    f"0000:{16 + 16 * dev:02x}:00.0",
                    gpu(dev, f"0000:{18 + 16 * dev:02x}:00.0", nvswitches(), "0x2335", GEN5),
                    nic(f"0000:{19 + 16 * dev:02x}:00.0"),
                    speed=GEN5,
                )
                for dev in range(4 * node, 4 * node + 4)
            ),
        )
        for node in range(2)
    )
)

NO_LINKS = system(
    cpu("0", gpu(0, "0001:00:00.0", nvlink("0002:00:00.0", 12, "0x030200"), speed="", width="0"), host=""),
    cpu("1", gpu(1, "0002:00:00.0", nvlink("0001:00:00.0", 12, "0x030200"), speed="", width="0"), host=""),
)
"""A cloud's virtual machine: a pair with NVLinks, no PCIe links."""

CLOUD_FILE = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- for NCCL_TOPO_FILE -->
<system version="1">
  <cpu numaid="0" affinity="0000ffff,0000ffff" arch="x86_64" vendor="AuthenticAMD" familyid="23" modelid="49">
    <pci busid="ffff:ff:01.0" class="0x060400" link_speed="16 GT/s" link_width="16">
      <pci busid="0002:00:00.0" class="0x030200" link_speed="16 GT/s" link_width="16"/>
      <pci busid="0102:00:00.0" class="0x020700" link_speed="16 GT/s" link_width="16"/>
      <pci busid="0001:00:00.0" class="0x030200" link_speed="16 GT/s" link_width="16"/>
    </pci>
  </cpu>
  <cpu numaid="1" affinity="ffff0000,ffff0000" arch="x86_64" vendor="AuthenticAMD" familyid="23" modelid="49">
    <pci busid="ffff:ff:02.0" class="0x060400" link_speed="16 GT/s" link_width="16">
      <pci busid="000b:00:00.0" class="0x030200" link_speed="16 GT/s" link_width="16"/>
    </pci>
  </cpu>
</system>
"""
"""PCI devices alone, no `gpu`, as clouds ship it with their images."""

VIRTUAL_BRIDGE = system(
    cpu(
        "-1",
        switch("0000:00:10.0", gpu(0, "0000:06:00.0", speed=GEN5, device="0x2330"), speed="2.5 GT/s PCIe", width="1"),
        switch("0000:00:11.0", gpu(1, "0000:07:00.0", speed=GEN5, device="0x2330"), speed="2.5 GT/s PCIe", width="1"),
    )
)

RCCL = system(
    *(
        cpu(
            str(node),
            gpu(
                node,
                f"0000:{0xC1 + node:02x}:00.0",
                nvlink(f"0000:{0xC2 - node:02x}:00.0", 2, "0x038000", "xgmi"),
                "0x740c",
            ).replace('class="0x030200" vendor="0x10de"', 'class="0x038000" vendor="0x1002"'),
            host="",
        )
        for node in range(2)
    ),
    version="2",
)
GRACE = system(
    *(
        cpu(
            str(node),
            gpu(
                node,
                f"000{8 + node}:06:00.0",
                nvlink("fffffff:ffff:ff", 18) + '<c2c bw="44712" count="5"/>',
                "0x2342",
                GEN5,
            ),
        )
        for node in range(2)
    )
)
TWO_HOSTS = system(cpu("0", gpu(0, "0000:18:00.0"), host="0x1"), cpu("0", gpu(0, "0000:18:00.0"), host="0x2"))
