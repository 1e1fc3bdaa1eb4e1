"""GPUs by their PCI vendor and device, where a dump gives numbers and no names (pci.ids, names of `cards`)."""

from __future__ import annotations

GPU_CLASSES = ("0300", "0302", "0380", "1200")
"""PCI classes of GPUs: VGA, 3D and display controllers, processing accelerators."""
GPU_VENDORS = ("10de", "1002", "1d94", "1d17")
"""NVIDIA, AMD, Hygon, Zhaoxin."""

_NVIDIA = {
    "H200": ("2335",),
    "H200 NVL": ("233b",),
    "GH200": ("2342", "2343", "2345", "2348"),
    "H100 SXM": ("2330", "2336", "2337"),
    "H100 PCIe": ("2331",),
    "H100 NVL": ("2321",),
    "H800": ("2324",),
    "H20": ("2329", "232c"),
    "B200": ("2901", "2909"),
    "B300": ("3182",),
    "A100-SXM4-40GB": ("20b0",),
    "A100-SXM4-80GB": ("20b2", "20b3"),
    "A100-PCIE-40GB": ("20b1", "20f1"),
    "A100 80GB PCIe": ("20b5",),
    "A800": ("20f3", "20f5"),
    "A40": ("2235",),
    "A30": ("20b7",),
    "A10": ("2236",),
    "A10G": ("2237",),
    "L40S": ("26b9",),
    "L40": ("26b5",),
    "L20": ("26ba",),
    "L4": ("27b8",),
    "V100-SXM2-16GB": ("1db1", "1db4"),
    "V100-SXM2-32GB": ("1db5", "1db6", "1df6"),
    "P100": ("15f8", "15f9"),
    "T4": ("1eb8",),
    "RTX PRO 6000 Blackwell": ("2bb1", "2bb5"),
    "RTX 6000 Ada Generation": ("26b1",),
    "RTX A6000": ("2230",),
    "RTX A5000": ("2231",),
    "RTX A4000": ("24b0",),
    "GeForce RTX 5090": ("2b85",),
    "GeForce RTX 5080": ("2c02",),
    "GeForce RTX 5070 Ti": ("2c05",),
    "GeForce RTX 5060 Ti": ("2d04",),
    "GeForce RTX 4090": ("2684",),
    "GeForce RTX 4080": ("2704",),
    "GeForce RTX 3090": ("2203", "2204"),
    "GeForce RTX 3080": ("2206",),
    "GeForce RTX 2080 Ti": ("1e04", "1e07"),
}
_AMD = {"Instinct MI300X": ("74a0", "74a1"), "Instinct MI355X": ("75a3",), "Instinct MI250X": ("7408", "740c")}

_NAMES = {("10de", device): f"NVIDIA {name}" for name, devices in _NVIDIA.items() for device in devices}
_NAMES |= {("1002", device): f"AMD {name}" for name, devices in _AMD.items() for device in devices}


def name_of(vendor: str, device: str) -> str:
    """The GPU of a vendor and device (four hexadecimal digits each, `0x` before them or not); "" if it is not known."""
    return _NAMES.get((vendor.lower().removeprefix("0x"), device.lower().removeprefix("0x")), "")
