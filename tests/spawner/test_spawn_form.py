from respawner_spawner.leases.model import Device
from respawner_spawner.spawn_form import gpu_form, image_form, options_from_form

A100 = Device("GPU-a", "here", "NVIDIA A100 <80GB>", 80 << 30)
L4 = Device("GPU-b", "here", "NVIDIA L4", 24 << 30)


def test_a_machine_without_gpus_asks_nothing():
    assert gpu_form([], taken=[], maximum=4, preset=0) == ""
    assert gpu_form([A100], taken=[], maximum=0, preset=0) == ""


def test_the_form_says_what_is_free_and_offers_no_more_than_there_is():
    form = gpu_form([A100, L4], taken=["GPU-a"], maximum=8, preset=1)
    assert "1 of 2 free" in form
    assert '<option value="1" selected>1 GPU</option>' in form
    assert 'value="2"' in form
    assert 'value="3"' not in form
    assert "NVIDIA A100 &lt;80GB&gt;, 80 GiB: in use" in form
    assert "NVIDIA L4, 24 GiB: free" in form


def test_only_known_fields_of_a_form_become_options():
    form = {"gpus": ["2"], "environment": ["LD_PRELOAD=x"], "image": []}
    assert options_from_form(form) == {"gpus": "2"}


def test_images_are_offered_only_where_there_is_a_choice():
    assert image_form(["a:1"], "a:1") == ""
    form = image_form(["a:1", "b:<2>"], "a:1")
    assert "<option selected>a:1</option><option>b:&lt;2&gt;</option>" in form
