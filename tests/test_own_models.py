"""Models of one's own, by the path of their file: found from the scenario, checked, moved, and part of what rows are of."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sim.cli import main
from sim.inputs.config import InputError
from sim.inputs.shipped_files import SHIPPED, hub_names
from sim.scenario import Scenario
from sim.sweeps.job import Job
from sim.workloads.named import load_model, parameters, shipped

DOCS = Path(__file__).parents[1] / "docs" / "models.md"

MINE: dict[str, Any] = {
    "name": "mine",
    "transformer": {"hidden": 64, "heads": 4, "ffn": 128, "patch": [1, 2, 2], "qk_norm": True, "rope": True},
    "blocks": [{"kind": "double", "repeat": 2, "small_parameters": 64}, {"kind": "single", "repeat": 3}],
    "vae": {"temporal": 1, "spatial": 8},
    "text": {"tokens": 16},
}
SCENARIO: dict[str, Any] = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"model": "models/mine.yaml", "height": 256, "width": 256, "steps": 2},
    "policy": {"kind": "whole_layer"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a scenario and its model; the working directory is another one."""
    made = tmp_path / "work"
    (made / "models").mkdir(parents=True)
    (made / "models" / "mine.yaml").write_text(yaml.safe_dump(MINE))
    (made / "s.yaml").write_text(yaml.safe_dump(SCENARIO))
    return made


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """The model with one value changed."""
    plain: Any = json.loads(json.dumps(MINE))
    at = plain
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return plain  # type: ignore[no-any-return]


def test_a_path_is_relative_to_the_scenario(folder: Path) -> None:
    scenario = Scenario.load(folder / "s.yaml")
    layers = scenario.workload.resolve(2).layers
    assert len(layers) == 5
    # 4 projections and an FFN of 2 on each side with biases, and the norms; q, k, v and the FFN in one, and out
    double, single = 2 * (4 * 64 * 65 + 128 * 65 + 64 * 129) + 64, 320 * 65 + 64 * 193
    assert [layer.bytes // 2 for layer in layers] == [double] * 2 + [single] * 3
    assert parameters(load_model(str(folder / "models" / "mine.yaml"))) == 2 * double + 3 * single
    for command in ("run", "explain"):
        assert invoke(command, folder / "s.yaml").exit_code == 0


def test_a_copy_of_a_shipped_model_gives_what_its_name_gives(tmp_path: Path) -> None:
    shutil.copy(SHIPPED / "models" / "wan2.1-1.3b.yaml", tmp_path / "copy.yaml")
    shape = {"frames": 17, "height": 256, "width": 256, "steps": 2}
    named = Scenario.from_plain({**SCENARIO, "workload": {"model": "Wan-AI/Wan2.1-1.3B", **shape}})
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**SCENARIO, "workload": {"model": "copy.yaml", **shape}}))
    copied = Scenario.load(tmp_path / "s.yaml")
    assert copied.program() == named.program()
    assert Job.of(copied).key() == Job.of(named).key()


def test_a_folder_that_is_called_as_a_model_on_a_hub_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("black-forest-labs/FLUX.1-dev").mkdir(parents=True)
    assert load_model("black-forest-labs/FLUX.1-dev").name == "flux.1-dev"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "wan2.1-14b"),
        ("wan2.2-t2v-a14b", "wan2.2-14b"),
        ("Wan-AI/Wan2.2-TI2V-5B", "wan2.2-5b"),
        ("hunyuanvideo-community/HunyuanVideo", "hunyuanvideo"),
        ("black-forest-labs/FLUX.1-schnell", "flux.1-dev"),
        ("stabilityai/stable-diffusion-3.5-large", "sd3.5-large"),
        ("Lightricks/LTX-Video", "ltx-video"),
    ],
)
def test_models_go_by_their_names_on_a_hub(name: str, model: str) -> None:
    assert load_model(name).name == model


def test_every_name_on_a_hub_stands_for_a_shipped_model_and_hides_none() -> None:
    assert set(hub_names().values()) <= set(shipped())
    assert not set(hub_names()) & set(shipped())
    assert all(name == name.lower().removesuffix("-diffusers") for name in hub_names())


def test_image_to_video_models_of_other_blocks_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean .*wan2.1-14b"):
        load_model("Wan-AI/Wan2.1-I2V-14B-480P")


def test_rows_of_a_sweep_go_on_when_all_has_moved_but_not_when_the_model_has_changed(
    folder: Path, tmp_path: Path
) -> None:
    def sweep(at: Path, *more: str) -> Result:
        return invoke(
            "sweep", at / "s.yaml", "--set", "world_size=1,2", "--out", at / "rows.csv", "--workers", "1", *more
        )

    assert sweep(folder).exit_code == 0
    rows = (folder / "rows.csv").read_text()
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    assert sweep(moved).exit_code == 0
    assert (moved / "rows.csv").read_text() == rows
    (moved / "models" / "mine.yaml").write_text(yaml.safe_dump(changed(("transformer", "ffn"), 256)))
    refused = sweep(moved)
    assert refused.exit_code == 2 and "model" in refused.stderr
    assert sweep(moved, "--recompute").exit_code == 0
    assert (moved / "rows.csv").read_text() != rows


def test_a_gate_and_biases_change_weights_and_work_as_they_should() -> None:
    # FLUX.2's blocks have neither biases nor modulation of their own: 8 d^2 + 2 x 9 d^2, and 13 d^2
    model = load_model("flux.2-dev")
    width = model.transformer.hidden
    scenario = {**SCENARIO, "world_size": 1, "workload": {"model": "flux.2-dev", "height": 512, "width": 512}}
    double, *_, single = Scenario.from_plain(scenario).workload.resolve(1).layers
    assert (double.bytes, single.bytes) == (2 * (26 * width**2 + 512), 2 * (13 * width**2 + 256))
    rows = 1024 + 512
    for layer, matrices in ((double, 13), (single, 13)):
        flops = {op.name: float(op.flops or 0) for op in layer.block if hasattr(op, "flops")}
        attention = flops.pop("attention")
        assert attention == 4 * rows**2 * width
        assert sum(flops.values()) == 2 * matrices * width**2 * rows
        (activation,) = [op for op in layer.block if getattr(op, "name", "") == "activation"]
        assert activation.bytes == 3 * rows * 3 * width * 2  # type: ignore[union-attr]


WRONG: dict[str, tuple[tuple[str | int, ...], object, str]] = {
    "heads": (("transformer", "heads"), 5, r"transformer\.heads: is 5, but hidden is 64: expected an even number"),
    "no heads": (("transformer", "heads"), 0, r"transformer\.heads: is 0, expected 1 to"),
    "key": (("transformer", "hiden"), 64, r"transformer\.hiden: unknown key; did you mean 'hidden'\?"),
    "gate": (("transformer", "gated_ffn"), 2, r"transformer\.gated_ffn: expected true or false, got the number 2"),
    "kind": (("blocks", 0, "kind"), "triple", r"blocks\[0\]\.kind: is 'triple'; .*one of cross, joint, double"),
    "mixed": (("blocks", 0, "kind"), "cross", r"blocks: have cross and single"),
    "no blocks": (("blocks",), [], r"blocks: is empty"),
    "many blocks": (("blocks", 0, "repeat"), 20_000, r"blocks: are 20003 in all, at most 10000"),
    "patch": (("transformer", "patch"), [1, 2], r"transformer\.patch: expected 3 values, got 2"),
    "images": (("transformer", "patch"), [2, 2, 2], r"transformer\.patch\[0\]: is 2, but vae\.temporal 1 makes images"),
    "vae": (("vae", "spatial"), -8, r"vae\.spatial: is -8, expected 1 to"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_model_file_is_told_by_its_own_name_and_key(folder: Path, name: str) -> None:
    path, value, told = WRONG[name]
    (folder / "models" / "mine.yaml").write_text(yaml.safe_dump(changed(path, value)))
    for args, where in (
        (["run", folder / "s.yaml"], r"workload\.model: \S*mine\.yaml: "),
        (["models", folder / "models" / "mine.yaml"], r"mine\.yaml: "),
    ):
        done = invoke(*args)
        assert done.exit_code == 2 and not done.stdout
        assert re.search(where + told, done.stderr), done.stderr


OTHER = {
    "scenario": (yaml.safe_dump(SCENARIO), "is a scenario, no model's shapes"),
    "profile": ("{name: x, like: h200x1}", "is a hardware profile, no model's shapes"),
    "config": (
        '{"_class_name": "FluxTransformer2DModel", "num_layers": 19}',
        "is the configuration of a published model",
    ),
    "text": ("shapes", "expected a mapping of keys to values"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_file_in_place_of_a_model_is_named(folder: Path, name: str) -> None:
    content, told = OTHER[name]
    file = folder / "models" / "mine.yaml"
    file.write_text(content)
    assert told in invoke("models", file).stderr
    done = invoke("run", folder / "s.yaml")
    assert done.exit_code == 2 and f"workload.model: {file.resolve()}: {told}" in done.stderr


def test_a_model_file_that_is_not_there_is_said_so(folder: Path) -> None:
    (folder / "models" / "mine.yaml").unlink()
    done = invoke("run", folder / "s.yaml")
    assert done.exit_code == 2 and "workload.model: 'models/mine.yaml' is not a known model" in done.stderr
    assert "or give a YAML file: there is none of that path" in done.stderr
    with pytest.raises(InputError, match="there is none of that path"):
        load_model("nowhere.yml")


def test_models_shows_a_file_and_counts_it(folder: Path) -> None:
    file = folder / "models" / "mine.yaml"
    shown, plain = invoke("models", file), invoke("models", file, "--json")
    assert shown.exit_code == plain.exit_code == 0
    assert f"{parameters(load_model(str(file))):,} parameters (none published)" in " ".join(shown.stdout.split())
    assert json.loads(plain.stdout)["transformer"]["hidden"] == 64


def test_models_says_what_it_takes_because_a_file_does_not_say_it(folder: Path) -> None:
    file = folder / "models" / "mine.yaml"
    assert "1 pass a step (`guidance.passes`; 2 where" in invoke("models", file).stdout
    assert "cross-attention" not in invoke("models", file).stdout
    given = {"guidance": {"passes": 1, "source": "mine"}, "text": {"tokens": 16}}
    blocks = [{"kind": "cross", "repeat": 2, "small_parameters": 64}]
    file.write_text(yaml.safe_dump(MINE | given | {"blocks": blocks}))
    shown = invoke("models", file).stdout
    assert "pass a step" not in shown
    assert "Taken, as the file does not say: no all-to-all of a cross-attention (`ulysses.cross_attention`; 4" in shown
    file.write_text(
        yaml.safe_dump(MINE | given | {"blocks": blocks, "ulysses": {"cross_attention": 4, "source": "mine"}})
    )
    assert "Taken, as" not in invoke("models", file).stdout
    assert "Taken, as" not in invoke("models", "wan2.2-14b").stdout


def test_the_example_of_the_documents_is_a_model(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(name: my-model\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 24
    (tmp_path / "my-model.yaml").write_text(example)
    done = invoke("models", tmp_path / "my-model.yaml")
    assert done.exit_code == 0, done.stderr
    published = load_model("flux.1-dev")
    mine = load_model(str(tmp_path / "my-model.yaml"))
    assert parameters(mine) == parameters(published)
