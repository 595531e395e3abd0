import pytest
from respawner_hub import images, up
from respawner_hub.settings import Settings


@pytest.mark.parametrize("name", ["no-such/image:1", "respawner/pytorch-cuda:9", "respawner/notebok:0.1.0"])
def test_a_foreign_image_name_is_never_built_over(monkeypatch, name):
    built = []
    monkeypatch.setattr(images, "ensure_image", lambda **arguments: built.append(arguments["image"]))
    said = []
    up._ensure_image(Settings.model_validate({"image": {"name": name}}), said.append)
    assert built == []
    assert "not in images/versions.toml" in said[0]
