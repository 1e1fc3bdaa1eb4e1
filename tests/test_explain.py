"""What `explain` says follows from figures: variants keep what the scenario has, sentences what the causes show."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
import yaml
from conftest import Command
from hypothesis import example, given
from strategies import Case, Plain, cases, collective, compute, scenario

from sim import policies
from sim.analysis.binding import MAX_HIDDEN_SHARE, MIN_SHARE
from sim.analysis.explain import Change, Explanation, explain
from sim.hardware import Profile
from sim.inputs.units import Number, show_bytes
from sim.policies import Policy, describe, difference
from sim.run import Result, simulate
from sim.timeline import critical_path
from sim.timeline.critical_path import CAUSES, causes

GROUPS: Plain = {"layers": 8, "steps": 4, "layer_bytes": "831 MB", "block": [compute(2e-3, "a")]}
"""Half of whose layers stay on the GPU, as a server's option has it."""


def explained(workload: Plain, policy: Plain, hardware: str = "h200x2-hostpath") -> Explanation:
    return explain(simulate(scenario(workload, policy, 2, hardware)))


def by_words(explanation: Explanation) -> dict[str, Change]:
    return {change.words: change for change in explanation.changes}


def test_variants_keep_the_layers_that_stay() -> None:
    """Four of eight layers are copied: 39.64 ms sharded, 68.45 in chunks; without those layers it would be 60 and 121."""
    found = by_words(
        explained(GROUPS, {"kind": "whole_layer", "resident_layers": [0, 1, 2, 3]}, "h200x2-nvlink-20261121c")
    )
    assert found["kind: sharded"].step_s == pytest.approx(39.64e-3, rel=1e-3)
    assert found["kind: chunked, chunk_bytes: 16 MiB"].step_s == pytest.approx(68.45e-3, rel=1e-3)
    assert "kind: whole_layer" not in found, "that is the scenario's own policy"


@pytest.mark.parametrize(
    "policy",
    [
        {"kind": "whole_layer", "issue": "after_compute", "quiesce": True, "resident_layers": [1]},
        {"kind": "yielding", "chunk_bytes": "8 MiB", "window": "launch", "lock": "landed", "slots": 5},
        {"kind": "sharded", "chunk_bytes": "8 MiB", "store": "device", "resident_fraction": 0.5},
    ],
)
def test_what_is_said_of_a_variant_is_what_a_run_of_it_gives(policy: Plain) -> None:
    workload = GROUPS | {"layers": 3, "steps": 3, "layer_bytes": "100 MiB"}
    explanation = explained(workload, policy)
    own = simulate(scenario(workload, policy)).metrics
    assert len(explanation.changes) >= 5
    for change in explanation.changes:
        read = yaml.safe_load("{kind: " + change.policy + "}")
        figures = simulate(scenario(workload, read)).metrics
        assert change.step_s == figures["step_time_s"]
        assert change.gain_s == own["step_time_s"] - figures["step_time_s"]
        assert change.peak_memory_bytes == figures["peak_memory_bytes"]
        assert change.memory_bytes == figures["peak_memory_bytes"] - own["peak_memory_bytes"]


def values(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in policy.__struct_fields__}


@given(cases())
def test_variants_change_one_thing(case: Case) -> None:
    policy = case.scenario.policy
    variants = list(policies.variants(policy, case.ranks))
    assert policy not in variants and len(set(variants)) == len(variants)
    mine = values(policy)
    for variant in variants:
        assert (
            scenario(case.workload, yaml.safe_load("{kind: " + describe(variant) + "}"), case.ranks).policy == variant
        )
        theirs = values(variant)
        changed = {name for name in mine.keys() & theirs if mine[name] != theirs[name]}
        if variant.kind != policy.kind:
            assert changed <= {"chunk_bytes"}
            assert not changed or mine["chunk_bytes"] is None, "only a size that is not there is chosen"
        elif "window" in changed:
            assert changed <= {"window", "slots", "lock", "poll"}, "what only host threads have"
        else:
            assert len(changed) == 1


@pytest.mark.parametrize("policy", [{"kind": "whole_layer"}, {"kind": "sharded"}, {"kind": "resident"}])
def test_policies_without_chunks_are_offered_chunks_of_the_published_size(policy: Plain) -> None:
    own = scenario(GROUPS, policy).policy
    sizes = {v.kind: v.chunk_bytes for v in policies.variants(own, 2) if v.kind != own.kind}
    assert sizes["chunked"] == sizes["yielding"] == 16 * 2**20
    assert sizes.get("sharded") is None


def test_chunks_are_kept_and_offered_larger_and_smaller() -> None:
    own = scenario(GROUPS, {"kind": "chunked", "chunk_bytes": "4 MiB"}).policy
    found = [(v.kind, v.chunk_bytes) for v in policies.variants(own, 2) if v.chunk_bytes != own.chunk_bytes]
    assert found == [("whole_layer", None), ("adaptive", None), ("chunked", 16 * 2**20), ("chunked", 2**20)]
    assert {v.kind for v in policies.variants(own, 2)} == {"adaptive", "chunked", "sharded", "whole_layer", "yielding"}
    assert {v.kind for v in policies.variants(own, 1)} == {"adaptive", "chunked", "whole_layer", "yielding"}
    small = scenario(GROUPS, {"kind": "chunked", "chunk_bytes": "128 KiB"}).policy
    assert 2**15 not in {v.chunk_bytes for v in policies.variants(small, 2)}, "such a copy costs its set-up"


def test_a_variant_that_its_own_policy_refuses_is_not_offered() -> None:
    """One more layer ahead needs more slots than there are."""
    policy = {"kind": "yielding", "chunk_bytes": 500_000, "window": "kernel", "slots": 2}
    found = by_words(explained(GROUPS | {"layers": 2, "layer_bytes": "2 MB"}, policy))
    assert not any("prefetch_layers" in words for words in found)
    assert "window: device_gate, without slots" in found


def test_keys_that_a_variant_leaves_out_are_named_so() -> None:
    own = scenario(GROUPS, {"kind": "sharded", "chunk_bytes": "8 MiB"}).policy
    said = {difference(own, variant) for variant in policies.variants(own, 2)}
    assert "without chunk_bytes" in said
    assert not any("null" in words for words in said)


@pytest.mark.parametrize("policy", [{"kind": "whole_layer"}, {"kind": "sharded"}, {"kind": "resident"}])
def test_variants_obey_the_limits_of_scenarios(policy: Plain) -> None:
    """Chunks of 16 MiB of such a layer would be 60 million copies a step."""
    found = by_words(explained(GROUPS | {"layers": 2, "layer_bytes": 10**15}, policy))
    assert not any("chunk_bytes" in words for words in found)


# ---- memory --------------------------------------------------------------------------------------------------------


def with_memory(result: Result, capacity: float) -> Result:
    """The same run on GPUs with `capacity` bytes."""
    device = result.profile.device
    memory = msgspec.structs.replace(device.memory, value=type(device.memory.value)(capacity))
    profile: Profile = msgspec.structs.replace(result.profile, device=msgspec.structs.replace(device, memory=memory))
    return result._replace(profile=profile)


COPIES_BIND: Plain = {"kind": "chunked", "chunk_bytes": "16 MiB", "resident_fraction": 0.5}


def test_only_variants_that_fit_memory_are_advised() -> None:
    result = simulate(scenario(GROUPS, COPIES_BIND))
    roomy = explain(result)
    best = roomy.changes[0]
    assert best.words == "resident_fraction: 0.75"
    # a quarter more of 8 layers of 831 MB stays, and is in neither of the two slots
    assert best.memory_bytes == best.peak_memory_bytes - result.metrics["peak_memory_bytes"] == 6 * 831e6 / 4
    assert any(best.words in sentence for sentence in roomy.sentences)
    tight = explain(with_memory(result, result.metrics["peak_memory_bytes"]))
    assert not by_words(tight)[best.words].fits_memory
    advice = [s for s in tight.sentences if s.startswith("With ")]
    assert not any(best.words in sentence for sentence in advice)
    assert all(c.fits_memory == (c.memory_bytes <= 0) for c in tight.changes)


def test_faster_variants_that_do_not_fit_are_reported() -> None:
    result = simulate(scenario(GROUPS, {"kind": "chunked", "chunk_bytes": "64 MiB"}, 1))
    found = explain(with_memory(result, result.metrics["peak_memory_bytes"]))
    faster = [c for c in found.changes if c.gain_s >= MIN_SHARE * result.metrics["step_time_s"]]
    assert faster and not any(c.fits_memory for c in faster)
    assert found.sentences[-1] == (
        f"Every faster variant needs more memory than the GPU's {show_bytes(result.metrics['peak_memory_bytes'])}: the "
        f"fastest, {faster[0].words}, needs {show_bytes(faster[0].peak_memory_bytes)}."
    )


def test_a_scenario_that_does_not_fit_is_told_what_would() -> None:
    result = simulate(scenario(GROUPS, COPIES_BIND))
    peak = result.metrics["peak_memory_bytes"]
    found = explain(with_memory(result, peak - 1))
    best = next(c for c in found.changes if c.fits_memory)
    assert (
        f"It does not fit: its peak memory is {show_bytes(peak)}, the GPU has {show_bytes(peak - 1)}."
        in found.sentences
    )
    assert found.sentences[-1].startswith(f"The fastest variant that fits is {best.words}: ")
    assert found.sentences[-1].endswith(" more time.")
    nothing = explain(with_memory(result, 2**20))
    assert nothing.sentences[-1] == "None of the variants tried fits into 1 MiB either."


@pytest.mark.parametrize(
    ("workload", "policy"),
    [
        (GROUPS, COPIES_BIND),
        (GROUPS, {"kind": "whole_layer", "resident_fraction": 0.9}),
        (GROUPS, {"kind": "yielding", "chunk_bytes": "64 MiB", "window": "launch", "slots": 4, "resident_fraction": 1}),
        (GROUPS | {"block": [compute(2e-3, "a"), collective(2**30)]}, {"kind": "sharded", "resident_fraction": 1}),
    ],
)
def test_the_largest_resident_fraction_that_fits_is_tried(workload: Plain, policy: Plain) -> None:
    result = simulate(scenario(workload, policy))
    wanted = simulate(scenario(workload, policy | {"resident_fraction": 0.37}))
    tight = with_memory(result, wanted.metrics["peak_memory_bytes"] + 1000)
    found = by_words(explain(tight))
    assert found["resident_fraction: 0.37"].fits_memory
    more = simulate(scenario(workload, policy | {"resident_fraction": 0.38}))
    assert more.metrics["peak_memory_bytes"] > tight.profile.device.memory.value
    share = [c for words, c in found.items() if words.startswith("resident_fraction: ") and c.fits_memory]
    assert min(share, key=lambda c: c.step_s).words == "resident_fraction: 0.37"


def test_weights_that_do_not_fit_are_told_how_much_may_stay() -> None:
    result = simulate(scenario(GROUPS, {"kind": "resident"}))
    wanted = simulate(scenario(GROUPS, {"kind": "whole_layer", "resident_fraction": 0.6}))
    found = explain(with_memory(result, wanted.metrics["peak_memory_bytes"]))
    assert by_words(found)["kind: whole_layer, resident_fraction: 0.6"].fits_memory
    assert "resident_fraction: 0.6" in found.sentences[-1]


# ---- sentences -----------------------------------------------------------------------------------------------------

COPIES = ("exposed_h2d", "exposed_gather", "exposed_copy", "engine_wait", "copy_overhead", "copy_contention")
BINDS = re.compile(r"([A-Z][a-z0-9A-Z ]*) binds?: (?:it is|they are) (\d+) % of the critical path")
GROUPS_OF_CAUSES = {
    "Compute and collectives": ("compute", "collective_alone", "kernel_slowdown", "collective_contention"),
    "Host issue": ("host_issue",),
    "Waits at gates and for peers": ("yield_wait", "skew"),
    "Events and flags": ("stream_overhead",),
}
"""All other names are of copies and gathers."""


def test_every_cause_is_in_one_group() -> None:
    assert sorted(c for group in critical_path.CAUSE_GROUPS.values() for c in group) == sorted(CAUSES)


PAGEABLE: Plain = {
    "kind": "diffusers_group_offload",
    "stream": False,
    "new_pages": False,
    "hook": 0.0,
    "per_tensor": 0.0,
}
"""Weights come from pageable memory, and go back."""


@given(cases())
@example(Case({"steps": 1, "layers": 1, "layer_bytes": 2, "block": [compute(1.0)]}, PAGEABLE))
@example(Case({"steps": 1, "layers": 1, "layer_bytes": 1, "block": [compute(0.0)]}, PAGEABLE))  # takes no time
def test_sentences_say_what_the_causes_show(case: Case) -> None:
    result = case.run()
    found = explain(result)
    text = " ".join(found.sentences)
    by_cause, step = causes(result.timeline, result.profile), found.waterfall.step_s
    resident = Case(case.workload, {"kind": "resident"}, case.ranks, case.changes).run()
    baseline = sum(causes(resident.timeline, resident.profile).values())
    weights = sum(by_cause[cause] for cause in COPIES)
    binds = [(m[1], int(m[2])) for sentence in found.sentences if (m := BINDS.match(sentence))]
    assert len(binds) == (step > 0)
    for name, share in binds:
        group = GROUPS_OF_CAUSES.get(name, COPIES)
        largest = max(sum(by_cause[c] for c in other) for other in (COPIES, *GROUPS_OF_CAUSES.values()))
        assert sum(by_cause[c] for c in group) == pytest.approx(largest)
        assert share == pytest.approx(100 * largest / step, abs=0.51)
        if group is COPIES:
            assert name.lower().startswith("gathers") == (by_cause["exposed_gather"] > weights / 2)
    said = sum(words in text for words in ("hide behind", "Nothing is copied", "is not hidden"))
    assert said == (step > 0 and binds[0][0] in GROUPS_OF_CAUSES)
    if "hide behind" in text:
        assert weights + by_cause["yield_wait"] <= 0.021 * step
        assert step <= 1.021 * baseline + 1e-9
    if "is not hidden" in text:
        assert weights + by_cause["yield_wait"] > 0.019 * step or step > 1.019 * baseline
    if "Nothing is copied" in text:
        assert weights == 0 and step == pytest.approx(baseline, abs=1e-9)
    assert ("Waiting at gates takes" in text) == (step > 0 and by_cause["yield_wait"] >= MIN_SHARE * step)
    if "Transfers share links" in text:
        assert by_cause["copy_contention"] + by_cause["collective_contention"] > 0
    if step > 0:
        shares = dict(re.findall(r"([a-zA-Z0-9][^,(]*?) \((\d+) %\)", found.sentences[1].replace(" and ", ", ")))
        assert sum(map(int, shares.values())) <= 100 + len(CAUSES)
    for sentence in found.sentences:
        if advised := re.match(r"With (.*) the step takes ([0-9.]+) % less time", sentence):
            change = by_words(found)[advised[1]]
            assert change.fits_memory
            assert float(advised[2]) == pytest.approx(100 * change.gain_s / result.metrics["step_time_s"], abs=0.06)
            assert change.gain_s >= MIN_SHARE * result.metrics["step_time_s"]
    assert 0 < MIN_SHARE < MAX_HIDDEN_SHARE < 0.05


def test_a_host_thread_that_issues_too_slowly_binds() -> None:
    """282 chunks a layer, each issued when the one before has landed and been seen."""
    workload: Plain = {"layers": 2, "steps": 4, "layer_bytes": 140509184}
    block = [compute(0.416e-3, "qkv"), collective(15974400), compute(1.8e-3, "rest")]
    policy = {"kind": "yielding", "chunk_bytes": 500_000, "window": "kernel", "slots": 2}
    found = explained(workload | {"block": block}, policy)
    text = " ".join(found.sentences)
    assert "Host issue binds: it is 76 % of the critical path (copies 14 %, compute and collectives 7 %" in text
    assert "Copies bind" not in text and "is not hidden: the step takes 796.9 % longer" in text


def test_copies_that_lengthen_the_step_are_not_said_to_hide() -> None:
    """One layer of many has no time to hide its copy: a tenth of the step, though compute is most of it."""
    blocks = [
        {"repeat": 1, "layer_bytes": "560 MB", "block": [compute(1e-3)]},
        {"repeat": 20, "layer_bytes": 2, "block": [compute(4e-3)]},
    ]
    found = explained({"steps": 4, "blocks": blocks}, {"kind": "whole_layer", "prefetch_layers": 0})
    text = " ".join(found.sentences)
    assert "is not hidden: the step takes 13.3 % longer" in text and "H2D transfer 10.12 ms" in text
    assert "hide behind" not in text


def test_gathers_that_bind_are_named() -> None:
    workload = GROUPS | {"block": [compute(1e-4, "a")]}
    found = explained(workload, {"kind": "sharded", "store": "device"})
    assert any(s.startswith("Gathers of weights bind") for s in found.sentences)
    assert "Nothing is copied" not in " ".join(found.sentences)


def test_copies_behind_much_compute_hide() -> None:
    workload = GROUPS | {"layer_bytes": "10 MB", "block": [compute(4e-3)]}
    found = explained(workload, {"kind": "whole_layer"})
    assert any(s.startswith("The copies hide behind compute and collectives: the step takes ") for s in found.sentences)


def test_memory_of_fractions_is_in_the_variants() -> None:
    own = scenario(GROUPS, {"kind": "whole_layer", "resident_fraction": 0.9}).policy
    assert {v.resident_fraction for v in policies.variants(own, 2)} == {0.9, 1.0, 0.65, 0.0}
    assert all(type(v.resident_fraction) is Number for v in policies.variants(own, 2))


# ---- on the terminal -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy",
    ["{kind: sharded}", "{kind: resident}", "{kind: yielding, chunk_bytes: 500000, window: kernel, slots: 2}"],
)
def test_figures_and_explanations_of_every_policy_are_printed(tmp_path: Any, chunkflow: Command, policy: str) -> None:
    text = f"""
hardware: h200x2-hostpath
world_size: 2
workload: {{layers: 2, steps: 3, layer_bytes: 8 MB, block: [{{compute: {{name: a, seconds: 1 ms}}}}]}}
policy: {policy}
"""
    (tmp_path / "s.yaml").write_text(text)
    shown = chunkflow("run", "s.yaml", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    kind = yaml.safe_load(policy)["kind"]
    assert f"s.yaml on h200x2-hostpath: {kind}" in shown.stdout
    assert not re.search(r"None|False|True|\(\)|'", shown.stdout.replace("the GPU's", "")), (
        "values as Python writes them"
    )
    said = chunkflow("explain", "s.yaml", cwd=tmp_path)
    assert (said.returncode, said.stderr) == (0, "")
    assert f"under {kind}" in " ".join(said.stdout.split())


def test_changes_have_a_sign_that_says_which_way(tmp_path: Any, chunkflow: Command) -> None:
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {
                "hardware": "h200x2-hostpath",
                "world_size": 2,
                "workload": GROUPS,
                "policy": {"kind": "chunked", "chunk_bytes": "64 MiB"},
            }
        )
    )
    shown = chunkflow("explain", "s.yaml", cwd=tmp_path).stdout
    lines = shown.split("variants, each changed in one thing")[1].splitlines()
    (more,) = [line for line in lines if "resident_fraction: 0.25" in line]
    assert re.search(r"ms +-2\d\.\d % ", more) and re.search(r"GiB +\+\d.*iB", more)


def test_a_sweep_over_policies_has_a_line_each(tmp_path: Any, chunkflow: Command) -> None:
    data = {
        "hardware": "h200x2-hostpath",
        "world_size": 2,
        "workload": GROUPS | {"steps": 2},
        "policy": {"kind": "resident"},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    kinds = "{kind: resident},{kind: yielding, chunk_bytes: 64 MiB, window: kernel, resident_layers: [0, 1]}"
    done = chunkflow("sweep", "s.yaml", "--set", f"policy={kinds}", "--workers", "1", "--html", "p.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "{" not in done.stdout
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert any(line.startswith("yielding+kernel 64 MiB resident_layers=[0, 1] ") and "GiB" in line for line in lines)
    assert "yielding+kernel 64 MiB resident_layers=[0, 1]" in (tmp_path / "p.html").read_text()
    assert "{'kind'" not in (tmp_path / "p.html").read_text()
