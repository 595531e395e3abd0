from respawner_spawner.spawn_form import image_form, options_from_form


def test_only_known_fields_of_a_form_become_options():
    form = {"gpus": ["2"], "environment": ["LD_PRELOAD=x"], "image": [], "mig": ["any"]}
    assert options_from_form(form) == {"gpus": "2", "mig": "any"}


def test_images_are_offered_only_where_there_is_a_choice():
    assert image_form(["a:1"], "a:1") == ""
    form = image_form(["a:1", "b:<2>"], "a:1")
    assert "<option selected>a:1</option><option>b:&lt;2&gt;</option>" in form
