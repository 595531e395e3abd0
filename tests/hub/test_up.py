from respawner_hub import images, up
from respawner_hub.settings import Settings


def test_a_foreign_image_name_is_never_built_over(monkeypatch):
    built = []
    monkeypatch.setattr(images, "ensure_image", lambda **arguments: built.append(arguments["image"]))
    said = []
    up._ensure_image(Settings.model_validate({"image": {"name": "no-such/image:1"}}), said.append)
    assert built == []
    assert "not ours" in said[0]
